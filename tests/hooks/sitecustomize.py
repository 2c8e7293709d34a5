"""Put on PYTHONPATH, it writes down what the interpreter does with the network, before it is done.

Python's audit events tell of Python's own calls only; `tests.sockets` sees those of native code. But they
also tell of names looked up without a socket, of addresses opened in a browser and of programs started.
"""

import json
import os
import sys

_FILE = os.environ.get("DRAGOMAN_AUDIT", "")
_EVENTS = {
    "socket.__new__", "socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg",
    "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo",
    "urllib.Request", "http.client.connect", "smtplib.connect", "ftplib.connect", "webbrowser.open",
    "subprocess.Popen", "os.system", "os.posix_spawn",
}  # fmt: skip


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "began" or event in _EVENTS:
        line = json.dumps({"event": event, "program": sys.orig_argv, "arguments": repr(arguments[:3])[:500]})
        file = os.open(_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(file, line.encode() + b"\n")
        os.close(file)


if _FILE:
    _note("began", ())
    sys.addaudithook(_note)
