"""What a client is told: headers and bodies as OpenAI's clients expect them."""

import json

import httpx
import openai
import pytest
from unit.quotas.quota_parts import HandClock, grant, opened, refuse, tenant

from loractl.quotas import Quotas, SizeRefusal, bounded_output, refusal_body, refusal_headers, standing_headers
from loractl.quotas.answers import duration_text
from loractl_registry.tenancy import Limits


@pytest.fixture
def clock():
    return HandClock(now=1000.0)


def test_headers_are_openais(clock):
    quotas = opened(clock, requests_per_minute=10, tokens_per_minute=1000, concurrent=4, tokens_per_day=5000)
    reservation = grant(quotas, 100)

    assert standing_headers(reservation.standing()) == [
        (b"x-ratelimit-limit-requests", b"10"),
        (b"x-ratelimit-remaining-requests", b"9"),
        (b"x-ratelimit-reset-requests", b"1m1s"),
        (b"x-ratelimit-limit-tokens", b"1000"),
        (b"x-ratelimit-remaining-tokens", b"900"),
        (b"x-ratelimit-reset-tokens", b"1m1s"),
        (b"x-ratelimit-limit-concurrent", b"4"),
        (b"x-ratelimit-remaining-concurrent", b"3"),
        (b"x-ratelimit-reset-concurrent", b"0s"),
        (b"x-ratelimit-limit-tokens-day", b"5000"),
        (b"x-ratelimit-remaining-tokens-day", b"4900"),
        (b"x-ratelimit-reset-tokens-day", b"12h0m0s"),
    ]


def test_no_limit_is_no_header(clock):
    assert standing_headers(grant(opened(clock)).standing()) == []


def test_refusal_says_when_to_come_back(clock):
    quotas = opened(clock, requests_per_minute=1)
    grant(quotas)
    clock.advance(0.5)

    headers = dict(refusal_headers(refuse(quotas)))

    assert headers[b"retry-after"] == b"61"
    assert headers[b"x-should-retry"] == b"true"
    assert headers[b"x-ratelimit-remaining-requests"] == b"0"


@pytest.mark.parametrize(
    ("limits", "used", "asked", "kind", "code", "retries"),
    [
        pytest.param({"requests_per_minute": 1}, 1, 1, "requests", "rate_limit_exceeded", b"true", id="requests"),
        pytest.param({"tokens_per_minute": 9}, 5, 5, "tokens", "rate_limit_exceeded", b"true", id="tokens"),
        pytest.param({"concurrent": 1}, 1, 1, "requests", "rate_limit_exceeded", b"true", id="concurrent"),
        pytest.param({"tokens_per_day": 9}, 5, 5, "insufficient_quota", "insufficient_quota", b"false", id="day"),
        pytest.param({"tokens_per_minute": 9}, 0, 10, "tokens", "rate_limit_exceeded", b"false", id="too-large"),
    ],
)
def test_body_is_openais(clock, limits, used, asked, kind, code, retries):
    quotas = opened(clock, **limits)
    grant(quotas, used)
    refusal = refuse(quotas, asked)

    error = refusal_body(refusal)["error"]

    assert (error["type"], error["code"], error["param"]) == (kind, code, None)
    assert dict(refusal_headers(refusal))[b"x-should-retry"] == retries


def test_message_says_what_was_refused_and_the_way_out(clock):
    quotas = opened(clock, tenant(tokens_per_minute=500, adapters={"bot": Limits(tokens_per_minute=100)}))
    grant(quotas, 60)

    assert refusal_body(refuse(quotas, 50))["error"]["message"] == (
        "40 of 100 tokens per minute are left for this key's tenant on bot, and this needs 50; try again in 1m1s"
    )
    assert refusal_body(refuse(quotas, 101))["error"]["message"].endswith(
        "send a smaller request, or ask the operator for a higher limit"
    )


def test_openai_client_understands_a_refusal(clock):
    quotas = opened(clock, tokens_per_day=1)
    grant(quotas, 1)
    refusal, calls = refuse(quotas), []

    def answer(request):
        calls.append(request)
        return httpx.Response(429, headers=refusal_headers(refusal), content=json.dumps(refusal_body(refusal)))

    client = openai.OpenAI(
        api_key="x", base_url="http://test", http_client=httpx.Client(transport=httpx.MockTransport(answer))
    )
    with pytest.raises(openai.RateLimitError, match="tokens per day") as caught:
        client.models.list()

    assert caught.value.code == "insufficient_quota"
    assert len(calls) == 1
    client.close()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.02, "20ms"),
        (1, "1s"),
        (1.01, "2s"),
        (60, "1m0s"),
        (3600, "1h0m0s"),
        (7501, "2h5m1s"),
    ],
)
def test_duration_is_never_shorter_than_it_is(seconds, text):
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("limits", "input_tokens", "asked", "expected"),
    [
        pytest.param({}, 10**6, None, None, id="no-bound"),
        pytest.param({}, 10, 20, 20, id="what-was-asked"),
        pytest.param({"max_output": 50}, 10, None, 50, id="output-of-the-tenant"),
        pytest.param({"max_output": 50}, 10, 20, 20, id="less-than-the-tenant-may"),
        pytest.param({"max_output": 50}, 10, 51, SizeRefusal("max_output", 50, 51), id="more-than-the-tenant-may"),
        pytest.param({"max_context": 100}, 80, None, 20, id="what-the-context-leaves"),
        pytest.param({"max_context": 100}, 80, 21, SizeRefusal("max_context", 100, 101), id="beyond-the-context"),
        pytest.param({"max_context": 100}, 100, None, SizeRefusal("max_context", 100, 101), id="prompt-fills-it"),
        pytest.param({"max_context": 100, "max_output": 50}, 80, None, 20, id="the-lower-of-two"),
    ],
)
def test_output_is_bounded(limits, input_tokens, asked, expected):
    assert bounded_output(tenant(**limits), "bot", input_tokens=input_tokens, asked=asked) == expected


def test_lower_bound_of_tenant_and_adapter_counts():
    one = tenant(max_output=50, adapters={"bot": Limits(max_output=20), "big": Limits(max_output=90)})

    assert bounded_output(one, "bot", input_tokens=1, asked=None) == 20
    assert bounded_output(one, "big", input_tokens=1, asked=None) == 50
    assert Quotas([one]).standing("acme", "bot") == ()
