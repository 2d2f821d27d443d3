import logging
import warnings

import pytest

from zoedge.export.sources.quiet import quiet


def test_mutes_warnings_and_log_records_and_restores_both(caplog):
    log = logging.getLogger("some.exporter")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with quiet():
            warnings.warn("chatter", stacklevel=1)
            log.warning("chatter")
            log.error("kept")
        warnings.warn("heard", stacklevel=1)
        log.warning("heard")
    assert [str(warning.message) for warning in seen] == ["heard"]
    assert caplog.messages == ["kept", "heard"]


def test_restores_after_an_error():
    before = logging.root.manager.disable, list(warnings.filters)
    with pytest.raises(ValueError, match="boom"), quiet():
        raise ValueError("boom")
    assert (logging.root.manager.disable, list(warnings.filters)) == before


def test_leaves_a_stricter_setting_alone():
    logging.disable(logging.ERROR)
    try:
        with quiet():
            assert logging.root.manager.disable == logging.ERROR
        assert logging.root.manager.disable == logging.ERROR
    finally:
        logging.disable(logging.NOTSET)
