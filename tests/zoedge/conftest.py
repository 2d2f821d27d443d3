import numpy as np
import pytest

from tests.builders.hand_bundle import LORA, hand_bundle
from tests.zoedge.commands import SIX_STEPS, run


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A bundle, data and a finished run; tests only read them."""
    folder = tmp_path_factory.mktemp("made")
    hand_bundle(folder / "bundle", trainable=(*LORA, "fc.bias"))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 4), np.float32)
    np.savez(folder / "data.npz", x=x, labels=(x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0))
    run("tune", folder / "bundle", "--data", folder / "data.npz", "-o", folder / "run", *SIX_STEPS)
    return folder
