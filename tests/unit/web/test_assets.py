"""The files of the page can do nothing that their policy forbids, and nothing else can be had."""

import re
from pathlib import Path

import pytest

import loractl.web
from loractl.web.assets import PATHS, asset

STATIC = Path(loractl.web.__file__).with_name("static")


@pytest.mark.parametrize("path", sorted(PATHS))
def test_every_answer_is_held_in(path):
    found = asset(path)
    headers = dict(found.headers)

    assert found.body
    assert headers[b"content-security-policy"].startswith(b"default-src 'none'; script-src 'self'; style-src 'self'")
    assert b"unsafe" not in headers[b"content-security-policy"]
    assert (headers[b"x-content-type-options"], headers[b"cache-control"]) == (b"nosniff", b"no-store")
    assert b"content-type" not in headers


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/ui/",
        "/ui//app.js",
        "/ui/../app.js",
        "/ui/%2e%2e/app.js",
        "/ui/index.html",
        "/ui/static/app.js",
        "/ui/app.js\0",
        "/UI",
        "app.js",
    ],
)
def test_nothing_else_is_served(path):
    assert asset(path) is None


def test_every_file_is_served():
    assert {path.name for path in STATIC.iterdir()} == {Path(path).name for path in PATHS - {"/ui"}} | {"index.html"}


def test_page_has_nothing_inline_and_nothing_from_elsewhere():
    page = (STATIC / "index.html").read_text()

    assert not re.search(r"\son\w+=|\sstyle=|<style|javascript:", page)
    assert not re.search(r"<script[^>]*>[^<]", page)
    assert set(re.findall(r'(?:src|href)="([^"]+)"', page)) <= PATHS | {"#content"}


@pytest.mark.parametrize("name", ["app.js", "show.js", "rates.js", "style.css"])
def test_files_name_no_other_server_and_make_no_markup_from_strings(name):
    text = (STATIC / name).read_text().replace("http://www.w3.org/2000/svg", "")

    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|localStorage|cookie", text)
