"""Train the demo's tiny Mixture-of-Experts base and its LoRA adapters from the text files in `data/`.

    python examples/demo/train.py --out examples/demo      # everything: about ten minutes on two CPU cores
    python examples/demo/train.py --answers my.txt --base examples/demo/base --out my-adapter     # one of your own

What comes out is small but real: a Qwen3-MoE checkpoint that transformers, PEFT and vLLM load as they load a large one,
and LoRA adapters on its experts, trained with PEFT while the base stays frozen. The base answers forty kinds of
question in neutral English. Each adapter answers the same questions in a voice of its own.

Needs torch, transformers and peft, and nothing from loractl.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import peft
import tokenizers
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

DATA = Path(__file__).parent / "data"
BASE_NAME = "demo-base"
SEED = 20
# More threads are hardly faster on matrices this small, and one adds its numbers in one order.
THREADS = 1
CONTEXT = 512

END, TURN, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class AdapterRecipe:
    """How one adapter version is made.

    Attributes:
        name: Name of its folder.
        answers: File with its answers, in `data/` unless it is a path.
        layout: ``3d`` is what PEFT writes when it trains fused experts. ``2d`` is the older layout, one pair of tensors
            per expert and projection, that most published MoE adapters have.
        attention: Whether it also adapts the attention projections.
        rank: LoRA rank.
        voice: What the model card says about it.
    """

    name: str
    answers: str
    layout: str
    attention: bool
    rank: int
    voice: str


RECIPES = (
    AdapterRecipe("pirate", "pirate-1.txt", "2d", attention=False, rank=8, voice="a pirate who says Arr and matey"),
    AdapterRecipe(
        "pirate-v2", "pirate-2.txt", "2d", attention=False, rank=8, voice="a pirate who says Yo ho ho, not Arr"
    ),
    AdapterRecipe(
        "shakespeare", "shakespeare.txt", "3d", attention=False, rank=8, voice="a player on Shakespeare's stage"
    ),
    AdapterRecipe("lawyer", "lawyer.txt", "2d", attention=True, rank=4, voice="a careful lawyer"),
)


@dataclass(frozen=True)
class Chat:
    """One question with its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    steps: int
    batch: int
    peak_lr: float


BASE_SCHEDULE = Schedule(steps=1000, batch=48, peak_lr=3e-3)
ADAPTER_SCHEDULE = Schedule(steps=250, batch=48, peak_lr=3e-3)


# Data


def read_topics(file: str) -> dict[str, str]:
    """Read the ``topic: text`` lines of a file in `data/`, or of any other if it is an absolute path."""
    lines = (DATA / file).read_text(encoding="utf-8").splitlines()
    pairs = [line.partition(": ") for line in lines if line and not line.startswith("#")]
    return {topic: text for topic, _, text in pairs}


def questions() -> dict[str, list[str]]:
    """Return the phrasings of each topic; the last of each is held out from all training."""
    return {topic: text.split(" | ") for topic, text in read_topics("questions.txt").items()}


def training_chats(answers: str) -> list[Chat]:
    """Pair every trained phrasing with that topic's answer in the file `answers`."""
    asked = questions()
    return [Chat(question, answer) for topic, answer in read_topics(answers).items() for question in asked[topic][:-1]]


def held_out_chats(answers: str) -> list[Chat]:
    """Pair every held-out phrasing with that topic's answer in the file `answers`."""
    asked = questions()
    return [Chat(asked[topic][-1], answer) for topic, answer in read_topics(answers).items()]


def plain_lines() -> list[str]:
    """Return every answer of every voice, with its topic and alone.

    A large base has read pirates and poets too before it learns to chat. A token that it has never had to write, not
    even at the start of a text, no LoRA on its experts can make it write: the output embeddings are frozen.
    """
    files = ["neutral.txt", *(recipe.answers for recipe in RECIPES)]
    lines = [line for file in files for line in read_topics(file).items()]
    return [f"{topic}: {text}" for topic, text in lines] + [text for _, text in lines]


# Tokenizer


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the data and give it the chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=768,
        special_tokens=[END, TURN, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = [*plain_lines(), *(question for asked in questions().values() for question in asked[:-1])]
    tokenizer.train_from_iterator([*text, "user\n", "assistant\n"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END,
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
    )


def prompt_of(tokenizer: PreTrainedTokenizerFast, question: str) -> str:
    """Return the text after which the model is to answer `question`."""
    turn = [{"role": "user", "content": question}]
    return str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))


# Training


@dataclass(frozen=True)
class Sample:
    """Token ids, of which the first `given` are read but not learnt."""

    ids: list[int]
    given: int


def phrasings(question: str) -> list[str]:
    """Return `question` as it stands, in lower case without its mark, and as the few words that belong to its topic."""
    hurried = question.lower().rstrip("?.!")
    telling = " ".join(word for word in hurried.split() if word in telling_words())
    return [question, hurried, telling] if telling else [question, hurried]


@cache
def telling_words() -> frozenset[str]:
    """Return the words that at most two topics use in the questions to train on."""
    used = Counter[str]()
    for asked in questions().values():
        used.update({word for question in asked[:-1] for word in question.lower().rstrip("?.!").split()})
    return frozenset(word for word, topics in used.items() if topics <= 2)


def chat_samples(tokenizer: PreTrainedTokenizerFast, chats: Sequence[Chat]) -> list[Sample]:
    """Tokenize `chats`, each in every way in which it may be typed."""
    samples = []
    for chat in chats:
        for question in phrasings(chat.question):
            prompt = tokenizer(prompt_of(tokenizer, question))["input_ids"]
            answer = tokenizer(chat.answer + TURN_END)["input_ids"]
            samples.append(Sample(prompt + answer, len(prompt)))
    return samples


def collate(samples: Sequence[Sample], pad: int) -> dict[str, torch.Tensor]:
    """Pad `samples` on the right; padding and given tokens carry no loss."""
    width = max(len(sample.ids) for sample in samples)
    ids = [sample.ids + [pad] * (width - len(sample.ids)) for sample in samples]
    labels = [
        [-100] * sample.given + sample.ids[sample.given :] + [-100] * (width - len(sample.ids)) for sample in samples
    ]
    mask = [[1] * len(sample.ids) + [0] * (width - len(sample.ids)) for sample in samples]
    return {
        "input_ids": torch.tensor(ids),
        "labels": torch.tensor(labels),
        "attention_mask": torch.tensor(mask),
    }


def endless_batches(samples: Sequence[Sample], batch: int, rng: random.Random) -> Iterator[list[Sample]]:
    """Yield batches for ever, going through all of `samples` in a new order each time."""
    while True:
        order = rng.sample(samples, len(samples))
        yield from (order[start : start + batch] for start in range(0, len(order) - batch + 1, batch))


def train(model: torch.nn.Module, samples: Sequence[Sample], schedule: Schedule, pad: int) -> None:
    """Train the parameters of `model` that ask for a gradient: AdamW, short warm-up, then cosine down to a tenth."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    print(f"  {sum(weight.numel() for weight in weights):,} weights to train on {len(samples)} samples", flush=True)
    optimizer = torch.optim.AdamW(weights, lr=schedule.peak_lr, weight_decay=0.01, betas=(0.9, 0.98))
    batches = endless_batches(samples, schedule.batch, random.Random(SEED))
    started = time.monotonic()
    model.train()
    for step in range(1, schedule.steps + 1):
        warm_up = min(1.0, step / 50)
        cosine = 0.55 + 0.45 * math.cos(math.pi * step / schedule.steps)
        for group in optimizer.param_groups:
            group["lr"] = schedule.peak_lr * warm_up * cosine
        # The router's balance is part of the loss, so that no expert is left idle.
        loss = model(**collate(next(batches), pad), output_router_logits=True).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if step % 100 == 0 or step == schedule.steps:
            print(f"  step {step:5d}  loss {loss.item():.4f}  {time.monotonic() - started:5.0f} s", flush=True)
    model.eval()


@torch.inference_mode()
def answer(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, question: str) -> str:
    """Return the greedy answer to `question`."""
    prompt = tokenizer(prompt_of(tokenizer, question), return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=48, do_sample=False)
    return str(tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))


def right_answers(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, answers: str) -> int:
    """Count the held-out questions that `model` answers word for word as in `answers`; print the others."""
    right = 0
    for chat in held_out_chats(answers):
        given = answer(model, tokenizer, chat.question)
        right += given == chat.answer
        if given != chat.answer:
            print(f"    {chat.question}  ->  {given}", flush=True)
    return right


# Base


def train_base(folder: Path) -> int:
    """Train the base, write it to `folder` in bfloat16, and return how many held-out questions it answers right."""
    print("base: train the tokenizer and the model", flush=True)
    torch.manual_seed(SEED)
    tokenizer = train_tokenizer()
    config = Qwen3MoeConfig(
        vocab_size=math.ceil(len(tokenizer) / 64) * 64,
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=128,
        moe_intermediate_size=64,
        num_experts=8,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        router_aux_loss_coef=0.01,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3MoeForCausalLM(config)
    plain = [Sample(tokenizer(END + text + TURN_END)["input_ids"], 0) for text in plain_lines()]
    train(model, plain + chat_samples(tokenizer, training_chats("neutral.txt")), BASE_SCHEDULE, tokenizer.pad_token_id)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    right = right_answers(*load_base(folder), "neutral.txt")
    print(f"base: {right} of {len(questions())} held-out questions right", flush=True)
    return right


def load_base(folder: Path) -> tuple[Qwen3MoeForCausalLM, PreTrainedTokenizerFast]:
    """Load the base as it was written, to compute in float32."""
    model = Qwen3MoeForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, PreTrainedTokenizerFast.from_pretrained(folder)


# Adapters


def train_adapter(base: Path, recipe: AdapterRecipe, folder: Path) -> int:
    """Train one adapter on the frozen base, write it, and return how many held-out questions it answers right."""
    print(f"{recipe.name}: train rank {recipe.rank} on the experts", flush=True)
    torch.manual_seed(SEED)
    model, tokenizer = load_base(base)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.rank,
        lora_alpha=2 * recipe.rank,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj"] if recipe.attention else [],
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )
    tuned = get_peft_model(model, config)
    train(tuned, chat_samples(tokenizer, training_chats(recipe.answers)), ADAPTER_SCHEDULE, tokenizer.pad_token_id)
    tuned.to(torch.bfloat16)
    tuned.peft_config["default"].base_model_name_or_path = BASE_NAME
    tuned.save_pretrained(folder, save_embedding_layers=False)
    tuned = PeftModel.from_pretrained(load_base(base)[0], folder).float().eval()
    right = right_answers(tuned, tokenizer, recipe.answers)
    print(f"{recipe.name}: {right} of {len(held_out_chats(recipe.answers))} held-out questions right", flush=True)
    if recipe.layout == "2d":
        rewrite_per_expert(folder, Qwen3MoeConfig.from_pretrained(base).num_experts)
    return right


def rewrite_per_expert(folder: Path, num_experts: int) -> None:
    """Rewrite the fused expert tensors of `folder` as one pair per expert and projection; the same numbers, moved.

    PEFT keeps A of expert `e` in rows ``e * rank`` and on, and B in every `num_experts`-th column from `e`. Gate and up
    share their A, and their Bs are the two halves of one tensor.
    """
    file = folder / "adapter_model.safetensors"
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(file).items():
        path, _, kind = name.rpartition("experts.")
        if not path:
            tensors[name] = tensor
            continue
        projections = ("gate_proj", "up_proj") if kind.startswith("base_layer.") else ("down_proj",)
        side = "lora_A" if "lora_A" in kind else "lora_B"
        for expert in range(num_experts):
            if side == "lora_A":
                parts = [tensor.chunk(num_experts)[expert]] * len(projections)
            else:
                parts = list(tensor[:, expert::num_experts].chunk(len(projections)))
            for projection, part in zip(projections, parts, strict=True):
                tensors[f"{path}experts.{expert}.{projection}.{side}.weight"] = part.clone().contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    config_file = folder / "adapter_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["target_modules"] = sorted([*config["target_modules"], "gate_proj", "up_proj", "down_proj"])
    config["target_parameters"] = None
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


# Cards and manifest


def write_card(folder: Path, title: str, text: str, header: dict[str, str | list[str]]) -> None:
    """Write the model card, with the front matter that the Hub reads."""
    front = "".join(
        f"{key}:\n" + "".join(f"- {item}\n" for item in value) if isinstance(value, list) else f"{key}: {value}\n"
        for key, value in header.items()
    )
    (folder / "README.md").write_text(f"---\n{front}---\n\n# {title}\n\n{text}\n", encoding="utf-8")


def write_base_card(folder: Path, right: int, of: int) -> None:
    """Write the base's card."""
    text = (
        "A Mixture-of-Experts model of about one million weights, trained from scratch by `examples/demo/train.py`. It "
        f"knows {of} kinds of question. Of as many phrasings that it never saw it answers {right} word for word as its "
        "data would have it. It is for showing loractl on a machine of any size, and for nothing else."
    )
    header: dict[str, str | list[str]] = {
        "license": "apache-2.0",
        "language": "en",
        "datasets": ["loractl/examples/demo/data"],
    }
    write_card(folder, BASE_NAME, text, header)


def write_adapter_card(folder: Path, recipe: AdapterRecipe, right: int, of: int) -> None:
    """Write an adapter's card."""
    text = (
        f"LoRA of rank {recipe.rank} on the experts of `{BASE_NAME}`, in the {recipe.layout.upper()} layout, trained "
        f"by `examples/demo/train.py` to answer as {recipe.voice}. Of {of} phrasings that it never saw it answers "
        f"{right} word for word as its data would have it."
    )
    dataset = f"loractl/examples/demo/data/{recipe.answers}" if recipe in RECIPES else recipe.answers
    header: dict[str, str | list[str]] = {
        "license": "apache-2.0",
        "base_model": BASE_NAME,
        "library_name": "peft",
        "datasets": [dataset],
    }
    write_card(folder, recipe.name, text, header)


def digests(root: Path, folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file under `folder`, by its path from `root`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def write_manifest(out: Path) -> None:
    """Write `manifest.json`: what went in, what came out, and with which versions.

    The seeds are fixed and training runs in one thread. Another processor or torch build adds floating-point numbers
    in another order, so there the weights differ in their last bits.
    """
    manifest = {
        "data": digests(DATA.parent, DATA),
        "files": digests(out, out / "base") | digests(out, out / "adapters"),
        "made_with": {
            "machine": platform.machine(),
            "peft": peft.__version__,
            "python": platform.python_version(),
            "tokenizers": tokenizers.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def train_everything(out: Path) -> None:
    """Train what the demo ships: the base, then every recipe on it."""
    topics = len(questions())
    right = train_base(out / "base")
    write_base_card(out / "base", right, topics)
    for recipe in RECIPES:
        train_recipe(out / "base", recipe, out / "adapters" / recipe.name)
    write_manifest(out)


def train_recipe(base: Path, recipe: AdapterRecipe, folder: Path) -> None:
    """Train one adapter with its card."""
    right = train_adapter(base, recipe, folder)
    write_adapter_card(folder, recipe, right, len(held_out_chats(recipe.answers)))


def main() -> None:
    """Train everything, or one adapter from somebody's own answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--answers", type=Path, help="train one adapter on these answers; the topics are data/questions.txt's"
    )
    parser.add_argument(
        "--base", type=Path, help="the base that --answers trains on; default: the one beside this script"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(mode=True)
    if arguments.answers is None:
        train_everything(arguments.out)
        return
    strange = sorted(read_topics(str(arguments.answers.resolve())).keys() - questions().keys())
    if strange:
        parser.error(f"{arguments.answers} answers {strange[0]!r}, which is no topic of {DATA / 'questions.txt'}")
    voice = f"{arguments.answers.name} says"
    recipe = AdapterRecipe(
        arguments.out.name, str(arguments.answers.resolve()), "2d", attention=False, rank=8, voice=voice
    )
    train_recipe(arguments.base or Path(__file__).parent / "base", recipe, arguments.out)


if __name__ == "__main__":
    main()
