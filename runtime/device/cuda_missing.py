"""stub until merged"""


def check_wheel() -> None: ...
def check_session(session: object) -> None:
    p = session.get_providers()
    assert p[0] == "CUDAExecutionProvider", p
