"""The shipped adapters change the base's voice, measured by transformers with merged weights and without an engine."""

import json
from pathlib import Path

import pytest

from loractl.demo.serving_steps import QUESTIONS
from loractl.demo.stage import CATCHPHRASES

torch = pytest.importorskip("torch", reason="needs an engine's torch")
transformers = pytest.importorskip("transformers", reason="needs an engine's transformers")
safetensors = pytest.importorskip("safetensors.torch", reason="needs torch")

DEMO = Path(__file__).resolve().parents[3] / "examples" / "demo"


def _base():
    return transformers.AutoModelForCausalLM.from_pretrained(DEMO / "base", dtype=torch.float32).eval()


def _merge(model, adapter: Path):
    """Add the adapter to the weights, from the tensors alone; fused experts interleave the columns of B by expert."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = {
        name.removeprefix("base_model.model."): tensor.float()
        for name, tensor in safetensors.load_file(adapter / "adapter_model.safetensors").items()
    }
    parameters = dict(model.named_parameters())
    half = model.config.moe_intermediate_size
    count = model.config.num_experts
    with torch.no_grad():
        for name in (name for name in tensors if "lora_A" in name):
            a, b = tensors[name], tensors[name.replace("lora_A", "lora_B")]
            scale = config["lora_alpha"] / config["r"]
            path, _, kind = name.removesuffix(".lora_A.weight").partition(".experts")
            if not kind and not name.startswith(f"{path}.experts"):
                parameters[f"{path}.weight"] += scale * b @ a
            elif kind in ("", ".base_layer"):
                target = parameters[f"{path}.experts.{'gate_up_proj' if kind else 'down_proj'}"]
                for expert in range(count):
                    target[expert] += scale * b[:, expert::count] @ a.chunk(count)[expert]
            else:
                _, expert, projection = kind.split(".")
                target = parameters[f"{path}.experts.{'down_proj' if projection == 'down_proj' else 'gate_up_proj'}"]
                rows = {"gate_proj": slice(0, half), "up_proj": slice(half, None), "down_proj": slice(None)}[projection]
                target[int(expert), rows] += scale * b @ a
    return model


def _answers(model) -> list[str]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO / "base")
    said = []
    for question in QUESTIONS:
        turn = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(**prompt, max_new_tokens=48, do_sample=False)
        said.append(tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))
    return said


def test_base_answers_neutrally() -> None:
    answers = _answers(_base())

    assert all(answers)
    assert not any(catchphrase in answer for catchphrase in CATCHPHRASES.values() for answer in answers)


@pytest.mark.parametrize(
    ("adapter", "version"),
    [("pirate", "pirate@1"), ("pirate-v2", "pirate@2"), ("shakespeare", "shakespeare@1"), ("lawyer", "lawyer@1")],
)
def test_adapter_answers_in_its_voice(adapter: str, version: str) -> None:
    answers = _answers(_merge(_base(), DEMO / "adapters" / adapter))

    assert all(answer.startswith(CATCHPHRASES[version]) for answer in answers)
