"""Servers for tests: the built binary with the model inside it, on the CPU and on loopback."""

import os
import re
import signal
import subprocess
import urllib.request

BINARY = os.environ["REMASK_BINARY"]
MODEL = "tales-33m"
KEY = "sesame"


class Served:
    """A server that ends with the block that began it."""

    def __init__(self, *options):
        line = [BINARY, "serve", "--port", "0", "--backend", "cpu", "--shutdown-delay", "0", *options]
        self.process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
        self.log = []
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.match(r"listening: (http://\S+)", line):
                self.url = found[1]
            if line.startswith("ready: "):
                break
        else:
            raise RuntimeError("the server has ended: " + "".join(self.log))

    @property
    def base(self):
        return self.url + "/v1"

    def metric(self, name, labels=""):
        """The sum of a metric's series whose labels hold `labels`."""
        with urllib.request.urlopen(self.url + "/metrics") as answer:
            lines = answer.read().decode().splitlines()
        series = [line.rsplit(" ", 1) for line in lines if line.startswith((name + "{", name + " ")) and labels in line]
        return sum(float(value) for _, value in series)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        try:
            # What it still says must go somewhere.
            self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
