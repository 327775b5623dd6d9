"""What headless Chromium makes of a local HTML file: errors, requests, widths, plots."""

import base64
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import tempfile
import time
from typing import NamedTuple

TIMEOUT = 60  # seconds for a whole look, which takes one or two

FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # root cannot have one, nor many containers; the pages are the tests' own
    "--disable-dev-shm-usage",  # a container's /dev/shm may be too small
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--hide-scrollbars",  # so that the layout is as wide as was asked for
    "--host-resolver-rules=MAP * ~NOTFOUND",  # requests are reported, and reach nothing
    "--no-first-run",
    "--no-default-browser-check",
)

# Runs in the page. Two frames and a moment let late scripts finish.
FACTS = r"""(async (width) => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  for (const e of all("[loading=lazy]")) e.loading = "eager";  // what scrolling would ask for
  await document.fonts.ready;
  for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame);
  await new Promise((done) => setTimeout(done, 100));

  const name = (e) => [e.localName + (e.id && "#" + e.id), ...e.classList].join(".");
  const text = (e) => (e?.textContent ?? "").trim();
  const outer = (e) => !e.ownerSVGElement;  // a drawing clips its own parts

  const past = (e) => {
    const box = e.getBoundingClientRect();
    return box.width > 0 && box.height > 0 && box.right + scrollX > width + 1;
  };
  const scrolls = (e) => e.scrollWidth > e.clientWidth + 1
    && ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
  const wide = (e) => e && (scrolls(e) || past(e) || wide(e.parentElement));
  const sideways = (e) => wide(e) && !wide(e.parentElement);  // of nested ones, the outermost

  const label = (e) => (e.getAttribute("aria-label") ?? "").trim()
    || (e.getAttribute("aria-labelledby") ?? "").split(/\s+/)
      .map((id) => text(document.getElementById(id))).join("");
  const plots = "img, svg, canvas";
  const described = (e) => {
    if (e.localName === "img") return e.alt.trim();
    // A figure's own image is looked at for itself; one drawn in text or boxes needs words.
    if (e.localName === "figure")
      return e.querySelector(plots) || label(e) || text(e.querySelector("figcaption"));
    return e.getAttribute("role") === "img"
      && (label(e) || text(e.querySelector(":scope > title")));
  };

  const root = document.documentElement;
  return {
    title: document.title,
    scroll_width: root.scrollWidth,
    client_width: root.clientWidth,
    sideways: all("*").filter(outer).filter(sideways).map(name),
    without_alternative: all(plots + ", figure, [role=img]")
      .filter(outer).filter((e) => !described(e)).map(name),
    plots: all(plots).filter(outer).length,
    // Headless, the browser leaves these out; with a window it does not.
    links: all("link[rel~=icon], link[rel~=preconnect], link[rel~=dns-prefetch]")
      .map((e) => e.href).filter(Boolean),
  };
})"""


class Look(NamedTuple):
    """What there was to see; elements are named by tag, id and classes, as in CSS.

    `sideways` holds the elements that scroll sideways and those that reach past the asked-for
    width, which on a narrow screen is everything if the page does not name its viewport.
    A request that failed is one of `requests`, and not one of `errors` too.
    """

    errors: list[str]
    requests: list[str]
    scroll_width: int
    client_width: int
    sideways: list[str]
    without_alternative: list[str]
    plots: int
    title: str
    screenshot: bytes


def chromium() -> str | None:
    """The path of a Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def look(path, width, height=900) -> Look:
    """Open the HTML file at `path` in a fresh browser, as a phone does if `width` is below 600."""
    if (browser := chromium()) is None:
        raise RuntimeError("no Chromium on PATH")
    url = pathlib.Path(path).resolve(strict=True).as_uri()
    with (
        tempfile.TemporaryDirectory(prefix="look-", ignore_cleanup_errors=True) as scratch,
        open(f"{scratch}/stderr", "w+", errors="replace") as stderr,
        # The protocol uses descriptors 3 and 4, which Popen cannot name and a shell can.
        subprocess.Popen(
            ["sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >&2', "sh", browser, *FLAGS]
            + [f"--user-data-dir={scratch}/profile"],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=os.environ | {"HOME": scratch, "TMPDIR": scratch},  # all litter in one place
            start_new_session=True,
        ) as process,
    ):
        try:
            return _look(_Pipe(process), url, width, height)
        except (OSError, RuntimeError) as error:
            stderr.seek(0)
            said = stderr.read()[-2000:]
            raise RuntimeError(f"{error}, opening {url}; Chromium said:\n{said}") from error
        finally:
            os.killpg(process.pid, signal.SIGKILL)


class _Pipe:
    """The DevTools protocol: JSON messages that end in a zero byte, and one deadline for all."""

    def __init__(self, process):
        self.process = process
        self.deadline = time.monotonic() + TIMEOUT
        self.target = {}  # holds the session's id once there is a page
        self.count = 0
        self.buffer = b""
        self.events = []

    def receive(self, wanted):
        poll = select.poll()
        poll.register(self.process.stdout, select.POLLIN)
        chunks = [self.buffer]
        while b"\0" not in chunks[-1]:
            left = self.deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise RuntimeError(f"no {wanted} from Chromium within {TIMEOUT} s")
            chunks.append(os.read(self.process.stdout.fileno(), 1 << 20))
            if not chunks[-1]:
                raise RuntimeError(f"Chromium ended before {wanted}")
        message, _, self.buffer = b"".join(chunks).partition(b"\0")
        return json.loads(message)

    def call(self, method, **params):
        self.count += 1
        message = {"id": self.count, "method": method, "params": params, **self.target}
        self.process.stdin.write(json.dumps(message).encode() + b"\0")
        while (answer := self.receive(method)).get("id") != self.count:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def wait(self, method, **params):
        expected = lambda event: (
            event["method"] == method and params.items() <= event.get("params", {}).items()
        )
        while not any(map(expected, self.events)):
            self.events.append(self.receive(method))


def _look(pipe, url, width, height):
    target = pipe.call("Target.createTarget", url="about:blank")["targetId"]
    session = pipe.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    pipe.target = {"sessionId": session}
    for domain in ("Page", "Runtime", "Log", "Network"):
        pipe.call(f"{domain}.enable")
    pipe.call("Page.setLifecycleEventsEnabled", enabled=True)
    pipe.call(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=height,
        deviceScaleFactor=1,
        mobile=width < 600,
    )
    page = pipe.call("Page.navigate", url=url)
    if "errorText" in page:
        raise RuntimeError(page["errorText"])
    pipe.wait("Page.lifecycleEvent", name="load", loaderId=page["loaderId"])

    answer = pipe.call(
        "Runtime.evaluate", expression=f"{FACTS}({width})", awaitPromise=True, returnByValue=True
    )
    if "exceptionDetails" in answer:
        raise RuntimeError(_exception(answer["exceptionDetails"]))
    size = pipe.call("Page.getLayoutMetrics")["cssContentSize"]
    image = pipe.call(
        "Page.captureScreenshot", captureBeyondViewport=True, clip={**size, "scale": 1}
    )
    facts = answer["result"]["value"]
    requests = _requests(pipe.events, facts.pop("links"), url)
    return Look(
        errors=_errors(pipe.events, requests),
        requests=requests,
        screenshot=base64.b64decode(image["data"]),
        **facts,
    )


def _requests(events, links, page):
    urls = [*links]
    for event in events:
        match event:
            case {"method": "Network.requestWillBeSent", "params": {"request": {"url": url}}}:
                urls.append(url)
            case {"method": "Network.webSocketCreated", "params": {"url": url}}:
                urls.append(url)
    inside = ("data:", "about:", "blob:")  # what the page holds already
    return [url for url in urls if url != page and not url.startswith(inside)]


def _errors(events, requests):
    errors = []
    for event in events:
        match event:
            case {
                "method": "Runtime.consoleAPICalled",
                "params": {"type": "error" | "assert", "args": args},
            }:
                errors.append(" ".join(str(a.get("value", a.get("description"))) for a in args))
            case {"method": "Runtime.exceptionThrown", "params": {"exceptionDetails": details}}:
                errors.append(_exception(details))
            case {"method": "Log.entryAdded", "params": {"entry": {"level": "error"} as entry}}:
                if entry["source"] != "network" or entry.get("url") not in requests:
                    errors.append(f"{entry['text']} ({entry.get('url', 'no address')})")
    return errors


def _exception(details):
    return details.get("exception", {}).get("description") or details["text"]
