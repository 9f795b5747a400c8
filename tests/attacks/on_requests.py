"""Attacks by names and by what a client sends."""

from __future__ import annotations

from attacks.acting import MAX_BODY_BYTES, Run, SeeHeader, Send, Wire, run
from attacks.declaring import Attack, Deed, Has, Threat
from attacks.on_store import MISSING, added
from attacks.scene import Scene

from loractl_registry import Ref, Stage

NAMED = run("add {name} {folder}")


def named(id_: str, deed: str, name: str, says: str, code: str = "registry.invalid_name", act: Run = NAMED) -> Attack:
    """Return an attack by a name."""

    def spoil(scene: Scene) -> None:
        scene.name = name

    return Attack(id_, Threat.NAMES, Has.FILES, deed, spoil, act, code, says)


NAMES = (
    named("name-in-cyrillic", "Add `bot` with a Cyrillic letter for its `o`", "b\u043et", "invalid name"),
    named("name-in-fullwidth", "Add `bot` in letters of full width", "\uff42\uff4f\uff54", "invalid name"),
    named("name-with-joiner", "Add `bot` with an invisible character in it", "bo\u200dt", "invalid name"),
    named("name-in-capitals", "Add `Bot` beside `bot`", "Bot", "invalid name"),
    named(
        "name-of-the-base", "Add an adapter with the name of the base", "tiny-moe", "belongs to", "registry.name_taken"
    ),
    named("name-like-a-path", "Add `../../evil`", "../../evil", "invalid name"),
    named(
        "name-with-a-line-break", "Add a name with a line break, to write lines into logs", "bot\nadmin", "invalid name"
    ),
    named("name-too-long", "Add a name of 64 characters", "x" * 64, "invalid name"),
    named("name-with-a-version", "Add `bot@1`", "bot@1", "invalid name"),
    named(
        "base-named-like-an-adapter",
        "Admit a base with the name of an adapter",
        "bot",
        "belongs to",
        "registry.name_taken",
        run("base add {name} {base}"),
    ),
)


def asked(id_: str, has: Has, deed: str, spoil: Deed, model: str, honest: Deed | None = None) -> Attack:
    """Return an attack by asking for what is not served; the answer says no more than that."""
    return Attack(
        id_,
        Threat.SERVED,
        has,
        deed,
        spoil,
        Send(model),
        MISSING,
        "does not exist or is not served here",
        honest=honest,
    )


def _nothing(_: Scene) -> None:
    """Nothing has to be done for it."""


def _step(verb: str, name: str) -> Deed:
    def spoil(scene: Scene) -> None:
        with scene.opened("rita") as rita:
            getattr(rita, verb)(Ref(name, 1), actor="rita", reason="test")

    return spoil


def _says(model: str) -> Deed:
    def spoil(scene: Scene) -> None:
        scene.request.body = {"model": model, "prompt": "hello"}

    return spoil


def spelled(id_: str, deed: str, model: str) -> Attack:
    """Return an attack by spelling the live name otherwise."""
    return Attack(
        id_, Threat.SERVED, Has.PORT, deed, _says(model), Send(), MISSING, "does not exist or is not served here"
    )


SERVED = (
    asked(
        "draft-asked", Has.PORT, "Ask for a draft by its number", _nothing, "raw@1", lambda scene: scene.go_live("raw")
    ),
    asked(
        "candidate-asked",
        Has.PORT,
        "Ask for a candidate by its number",
        _nothing,
        "sly@1",
        lambda scene: scene.go_live("sly"),
    ),
    asked("revoked-asked", Has.PORT, "Ask for what was revoked", _nothing, "gone", added("gone", 2)),
    asked(
        "approved-by-its-name",
        Has.PORT,
        "Ask by its bare name for what is approved and not live",
        lambda scene: scene.go_live("sly", until=Stage.APPROVED),
        "sly",
        lambda scene: scene.go_live("sly"),
    ),
    asked("retired-asked", Has.PORT, "Ask for what was retired", _step("retire", "bot"), "bot@1"),
    asked(
        "rejected-asked",
        Has.PORT,
        "Ask for what was rejected",
        _step("reject", "sly"),
        "sly@1",
        lambda scene: scene.go_live("sly"),
    ),
    asked(
        "revoked-while-serving",
        Has.PORT,
        "Ask for what was revoked a moment ago",
        lambda scene: setattr(scene, "during", lambda: _step("revoke", "bot")(scene)),
        "bot@1",
    ),
    spelled("name-in-other-case", "Ask for `BOT`", "BOT"),
    spelled("name-in-other-letters", "Ask for `bot` in letters of full width", "\uff42\uff4f\uff54"),
    spelled("number-spelled-otherwise", "Ask for `bot@01`", "bot@01"),
    spelled("path-as-a-model", "Ask for `../../home/evil`", "../../home/evil"),
    spelled("stored-path-as-a-model", "Ask for the digest of a draft", "sha256:" + "0" * 64),
)


def changed(**fields: object) -> Deed:
    """Change the request."""

    def spoil(scene: Scene) -> None:
        for name, value in fields.items():
            setattr(scene.request, name, value)

    return spoil


def route(id_: str, deed: str, **fields: object) -> Attack:
    """Return an attack by a route."""
    return Attack(
        id_, Threat.ROUTES, Has.PORT, deed, changed(**fields), Send(), "404 not_found", "there is no such route here"
    )


def posted(path: str) -> Attack:
    """Return an attack by POST to a route of vLLM."""
    return route(
        f"post-{path.strip('/').replace('/', '-')}",
        f"`POST {path}`",
        path=path,
        body={"lora_name": "evil", "lora_path": "/tmp/evil", "model": "bot"},
    )


ADMIN_ROUTES = (
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/collective_rpc",
    "/sleep",
    "/pause",
    "/start_profile",
    "/update_weights",
    "/reset_prefix_cache",
    "/invocations",
    "/tokenize",
    "/v1/embeddings",
)
ROUTES = (
    *map(posted, ADMIN_ROUTES),
    route("get-server-info", "`GET /server_info`", method="GET", path="/server_info"),
    route("get-docs", "`GET /openapi.json`", method="GET", path="/openapi.json"),
    route("websocket", "Open a WebSocket on `/v1/realtime`", kind="websocket", path="/v1/realtime"),
    route("websocket-on-an-allowed-path", "Open a WebSocket on `/v1/completions`", kind="websocket"),
    route("path-with-dots", "`POST /v1/completions/../load_lora_adapter`", path="/v1/completions/../load_lora_adapter"),
    route("path-doubled-slash", "`POST //v1/completions`", path="//v1/completions"),
    route("path-encoded", "`POST /v1/%63ompletions`", raw_path=b"/v1/%63ompletions"),
    route("path-in-capitals", "`POST /V1/completions`", path="/V1/completions"),
    route("path-with-null", "`POST /v1/completions` and a zero byte", path="/v1/completions\x00"),
    route("method-that-is-none", "`PUT /v1/completions`", method="PUT"),
)


def body(id_: str, threat: Threat, deed: str, code: str, says: str, spoil: Deed) -> Attack:
    """Return an attack by a body."""
    return Attack(id_, threat, Has.PORT, deed, spoil, Send(), code, says)


def field(name: str, value: object, deed: str, says: str = "cannot be set") -> Attack:
    """Return an attack by one field of a completion."""
    return body(
        f"field-{name.replace('_', '-')}",
        Threat.FIELDS,
        deed,
        "400 field_refused",
        says,
        changed(body={"model": "bot", "prompt": "hi", name: value}),
    )


def chat(id_: str, deed: str, says: str, **fields: object) -> Attack:
    """Return an attack by a field of a chat."""
    sent = {"model": "bot", "messages": [{"role": "user", "content": "hi"}]} | fields
    return body(id_, Threat.FIELDS, deed, "400 field_refused", says, changed(path="/v1/chat/completions", body=sent))


def _part(**part: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": [part]}]


FIELDS = (
    field("vllm_xargs", {"a": 1}, "Set `vllm_xargs`"),
    field("kv_transfer_params", {"do_remote_prefill": True}, "Have the engine fetch a KV cache: `kv_transfer_params`"),
    field("logits_processors", ["os.system"], "Name a Python function: `logits_processors`"),
    field("prompt_embeds", "gASV", "Send pickled tensors: `prompt_embeds`"),
    field("priority", -100, "Jump the queue: `priority`"),
    field("request_id", "somebody-else's", "Take somebody else's request: `request_id`"),
    field("use_beam_search", True, "Start requests that a revocation could not end: `use_beam_search`"),
    chat(
        "field-chat-template",
        "Have the server run a template: `chat_template`",
        "template of the client's choice",
        chat_template="{{ x }}",
    ),
    chat(
        "field-hidden-template",
        "Hide it in `chat_template_kwargs`",
        "template of the client's choice",
        chat_template_kwargs={"chat_template": "{{ x }}"},
    ),
    chat(
        "image-of-the-server",
        "Have the server read `file:///etc/passwd` as an image",
        "the server fetches nothing",
        messages=_part(type="image_url", image_url={"url": "file:///etc/passwd"}),
    ),
    chat(
        "image-of-the-network",
        "Have it fetch an address of its own network",
        "the server fetches nothing",
        messages=_part(image_url="http://169.254.169.254/"),
    ),
    body(
        "server-tool",
        Threat.FIELDS,
        "Have it call a tool server: `tools` of type `mcp`",
        "400 field_refused",
        "the server runs no tools",
        changed(
            path="/v1/responses",
            body={"model": "bot", "input": "hi", "tools": [{"type": "mcp", "server_url": "http://10.0.0.1/"}]},
        ),
    ),
    body(
        "stored-answer",
        Threat.FIELDS,
        "Ask for somebody's earlier answer: `previous_response_id`",
        "400 field_refused",
        "the server keeps no answers",
        changed(path="/v1/responses", body={"model": "bot", "input": "hi", "previous_response_id": "resp_1"}),
    ),
)
JSON = (b"content-type", b"application/json")


def sent(id_: str, deed: str, code: str, says: str, **fields: object) -> Attack:
    """Return an attack by the bytes or headers of a request."""
    return body(id_, Threat.BODIES, deed, code, says, changed(**fields))


def steering(name: str, value: str, deed: str) -> Attack:
    """Return an attack by a header that would steer the engine."""

    def spoil(scene: Scene) -> None:
        scene.passes = (name.encode(), value.encode())

    return Attack(
        f"header-{name}", Threat.BODIES, Has.PORT, deed, spoil, SeeHeader(), "dropped", f"the engine got {name}:"
    )


def wire(id_: str, deed: str, content: bytes, code: str, says: str) -> Attack:
    """Return an attack by bytes on the socket."""

    def spoil(scene: Scene) -> None:
        scene.wire = content

    return Attack(id_, Threat.BODIES, Has.PORT, deed, spoil, Wire(), code, says, honest=_well_formed)


GOOD_BODY = b'{"model":"bot","prompt":"hi"}'
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SMUGGLED = b"POST /v1/load_lora_adapter HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def _well_formed(scene: Scene) -> None:
    scene.wire = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(GOOD_BODY) + GOOD_BODY


def _with_key(scene: Scene) -> None:
    scene.api_key = "sesame"
    scene.request.headers = [JSON, (b"authorization", b"Bearer sesame")]


BODIES = (
    sent(
        "duplicate-model",
        "Name two models, of which two readers would each see another",
        "400 invalid_json",
        "duplicate key 'model'",
        body=b'{"model":"bot","model":"sly"}',
    ),
    sent(
        "duplicate-model-escaped",
        "Write the second one with an escape",
        "400 invalid_json",
        "duplicate key 'model'",
        body=b'{"model":"bot","mod\\u0065l":"sly"}',
    ),
    sent(
        "body-not-strict",
        "Send NaN",
        "400 invalid_json",
        "NaN is not a JSON number",
        body=b'{"model":"bot","temperature":NaN}',
    ),
    sent(
        "body-too-deep",
        "Nest the body 30 000 deep",
        "400 invalid_json",
        "nested too deeply",
        body=b'{"model":"bot","x":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    ),
    sent(
        "body-oversize",
        "Send more than the limit",
        "413 request_too_large",
        "larger than",
        body=b'{"model":"bot","x":"' + b"x" * MAX_BODY_BYTES + b'"}',
    ),
    sent(
        "body-oversize-declared",
        "Declare a terabyte",
        "413 request_too_large",
        "larger than",
        headers=[JSON, (b"content-length", b"1099511627776")],
    ),
    sent(
        "body-compressed",
        "Send a compressed bomb",
        "415 unsupported_media_type",
        "unsupported content-encoding",
        headers=[JSON, (b"content-encoding", b"gzip")],
    ),
    sent(
        "body-of-another-type",
        "Send the body as a form, as a browser does across origins",
        "415 unsupported_media_type",
        "unsupported content-type",
        headers=[(b"content-type", b"text/plain")],
    ),
    sent(
        "two-content-types",
        "Send two content types",
        "415 unsupported_media_type",
        "unsupported content-type",
        headers=[JSON, (b"content-type", b"text/plain")],
    ),
    sent("no-model", "Name no model", "400 field_refused", "the field model must be a string", body=b'{"prompt":"hi"}'),
    steering("x-vllm-priority", "-5", "Send `x-vllm-priority`"),
    steering("x-data-parallel-rank", "1", "Send `x-data-parallel-rank`"),
    steering("x-session-id", "other", "Send `x-session-id`"),
    steering("x-request-id", "mine", "Send `x-request-id`"),
    steering("transfer-encoding", "chunked", "Send `transfer-encoding` beside a length"),
    Attack(
        "no-key",
        Threat.BODIES,
        Has.PORT,
        "Ask a server that wants an API key, without one",
        changed(headers=[JSON]),
        Send(),
        "401 invalid_api_key",
        "missing or unknown API key",
        given=_with_key,
    ),
    Attack(
        "wrong-key",
        Threat.BODIES,
        Has.PORT,
        "Ask with a wrong one",
        changed(headers=[JSON, (b"authorization", b"Bearer sesam")]),
        Send(),
        "401 invalid_api_key",
        "missing or unknown API key",
        given=_with_key,
    ),
    wire(
        "smuggling-by-two-lengths",
        "Send a length and chunks, with a second request behind the shorter",
        HEAD + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (5 + len(SMUGGLED)) + SMUGGLED,
        "400",
        "",
    ),
    wire(
        "smuggling-by-two-headers",
        "Send two lengths that disagree",
        HEAD + b"Content-Length: %d\r\nContent-Length: 0\r\n\r\n" % len(GOOD_BODY) + GOOD_BODY,
        "400",
        "",
    ),
    wire(
        "pipelined-admin-route",
        "Send a good request and an administrative one behind it",
        HEAD + b"Content-Length: %d\r\n\r\n" % len(GOOD_BODY) + GOOD_BODY + SMUGGLED,
        "200 then 404",
        "there is no such route here",
    ),
)


ATTACKS: tuple[Attack, ...] = (*NAMES, *SERVED, *ROUTES, *FIELDS, *BODIES)
