"""Which fields pass, held against every field that the installed vLLM knows."""

from __future__ import annotations

import pytest
from support.vllm_source import vllm_fields

from loractl.gateway.errors import FieldRefusedError
from loractl.gateway.fields import REFUSED_FIELDS, check_fields
from loractl.gateway.routes import Route

# Fields that were read and found to steer nothing but the asker's own answer. A field of a newer vLLM is on neither
# list, so that somebody has to read what it does.
_PASSED_TEXT = """
    model prompt messages input instructions stream stream_options n best_of suffix echo user metadata seed stop
    frequency_penalty presence_penalty repetition_penalty length_penalty temperature top_p top_k min_p logit_bias
    logprobs top_logprobs prompt_logprobs logprob_token_ids max_tokens max_completion_tokens max_output_tokens
    max_tool_calls min_tokens stop_token_ids include_stop_str_in_output ignore_eos skip_special_tokens
    spaces_between_special_tokens truncate_prompt_tokens truncation truncation_side allowed_token_ids bad_words
    add_special_tokens add_generation_prompt continue_final_message response_format structured_outputs text
    return_tokens_as_token_ids return_token_ids return_token_offsets return_prompt_text routed_experts_prompt_start
    repetition_detection thinking_token_budget stream_interval watermarking mm_payload return_mm_kwargs cache_salt
    tools tool_choice parallel_tool_calls reasoning reasoning_effort include_reasoning documents chat_template_kwargs
    include prompt_cache_key service_tier store enable_response_messages previous_input_messages
    """
_PASSED = set(_PASSED_TEXT.split())
_REQUESTS = {
    "completion/protocol.py": "CompletionRequest",
    "chat_completion/protocol.py": "ChatCompletionRequest",
    "responses/protocol.py": "ResponsesRequest",
}


@pytest.mark.parametrize(("file", "name"), _REQUESTS.items())
def test_every_field_of_vllm_was_read_by_somebody(file: str, name: str) -> None:
    known = _PASSED | set(REFUSED_FIELDS)

    assert vllm_fields(file, name) - known == set()


def test_no_field_is_on_both_lists() -> None:
    assert set(REFUSED_FIELDS) & _PASSED == set()


@pytest.mark.parametrize("route", [Route.COMPLETIONS, Route.CHAT_COMPLETIONS, Route.RESPONSES])
@pytest.mark.parametrize("field", sorted(REFUSED_FIELDS))
def test_refused_field_is_named_with_the_reason(route: Route, field: str) -> None:
    with pytest.raises(FieldRefusedError, match=f"the field {field} cannot be set: ") as refused:
        check_fields(route, {"model": "m", field: {"a": 1}})

    assert refused.value.param == field
    assert REFUSED_FIELDS[field] in str(refused.value)


@pytest.mark.parametrize("value", [None, False, 0])
def test_refused_field_that_says_nothing_is_as_good_as_absent(value: object) -> None:
    check_fields(Route.COMPLETIONS, dict.fromkeys(REFUSED_FIELDS, value))


@pytest.mark.parametrize(
    "request_",
    [
        {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}
            ]
        },
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, {"image_url": "http://10.0.0.1/"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "uuid": "u", "image_url": "http://10.0.0.1/"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "prompt_embeds", "data": "gASV"}]}]},
        {"messages": [{"role": "user", "content": [{"type": ["text"], "text": "x"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
    ],
)
def test_chat_that_would_fetch_or_run_something_is_refused(request_: dict[str, object]) -> None:
    with pytest.raises(FieldRefusedError):
        check_fields(Route.CHAT_COMPLETIONS, request_)


@pytest.mark.parametrize(
    "request_",
    [
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://10.0.0.1/"}]}]},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"input": [{"type": "computer_call_output", "output": {"image_url": "file:///x"}}]},
        {
            "input": [
                {"type": "function_call_output", "output": [{"type": "input_file", "file_url": "http://10.0.0.1/"}]}
            ]
        },
        {"tools": [{"type": "mcp", "server_label": "x", "server_url": "http://10.0.0.1/"}]},
        {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
        {"tools": [{}]},
    ],
)
def test_response_that_would_fetch_or_run_something_is_refused(request_: dict[str, object]) -> None:
    with pytest.raises(FieldRefusedError):
        check_fields(Route.RESPONSES, request_)


@pytest.mark.parametrize(
    ("route", "request_"),
    [
        (Route.CHAT_COMPLETIONS, {"messages": [{"role": "user", "content": "hi"}]}),
        (Route.CHAT_COMPLETIONS, {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, "ho"]}]}),
        (Route.CHAT_COMPLETIONS, {"messages": [{"role": "assistant", "content": None, "tool_calls": []}, "odd"]}),
        (Route.CHAT_COMPLETIONS, {"messages": "wrong", "chat_template_kwargs": {"enable_thinking": False}}),
        (Route.CHAT_COMPLETIONS, {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        (Route.RESPONSES, {"input": "hi", "tools": [{"type": "function", "name": "f"}]}),
        (Route.RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]}),
        (Route.RESPONSES, {"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}),
        (Route.RESPONSES, {"input": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}]}]}),
        (Route.COMPLETIONS, {"prompt": ["a", "b"], "extra_body_field": 1}),
    ],
)
def test_ordinary_requests_pass(route: Route, request_: dict[str, object]) -> None:
    check_fields(route, request_)
