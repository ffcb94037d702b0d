"""Tasks whose answer is a text: their formats, their prompts and token ids, and their scores."""

from __future__ import annotations

import json
import re

import pytest
from conftest import ROOT
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from transformers import AutoTokenizer

from loradrop.hub import ASSETS
from loradrop.seeds import Seeds
from loradrop.tasks.text import IGNORED
from loradrop.training.data import TaskData

CONF = ROOT / "conf/task"
MINI = ("mini_table2text", "mini_summary")
E2E = {
    "trainset.csv": (
        'mr,ref\n"name[A, B], eatType[pub]",a pub\n"name[C], familyFriendly[yes]","for ""all"", C'
        ' "\n"name[A, B], eatType[pub]",A B is a pub\n'
    ),
    "testset_w_refs.csv": (
        '"mr","ref"\n"name[D], priceRange[\u00a320-25], near[E F]","one\ntwo"\n'
        '"name[C], food[x]","three"\n'
        '"name[D], priceRange[\u00a320-25], near[E F]","four"\n'
    ),
}
DIALOGUE = "#Person1#: Hi.\n#Person2#: Bye."


def make(name, **changes):
    return instantiate(OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), changes))


def write(folder, files):
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder.parent


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(ASSETS / "tiny_roberta")


# formats


def test_e2e_groups_the_references_of_a_meaning_for_evaluation(tmp_path):
    splits = make("e2e").load(write(tmp_path / "E2E", E2E))
    assert splits.train[:] == {
        "source": [
            "name : A, B | Type : pub",
            "name : C | family friendly : yes",
            "name : A, B | Type : pub",
        ],
        "target": ["a pub", 'for "all", C ', "A B is a pub"],
    }
    assert splits.evaluation["test"][:] == {
        "source": ["name : D | price : \u00a320-25 | near : E F", "name : C | food : x"],
        "references": [["one\ntwo", "four"], ["three"]],
    }


def test_dart_reads_json_and_xml(tmp_path):
    entries = [
        {
            "tripleset": [["a b", "IS_IN", "C"], ["C", "X", "1"]],
            "annotations": [{"text": "one"}, {"text": "two"}],
        },
        {"tripleset": [["d", "E", "f"]], "annotations": [{"text": " "}, {"text": "three"}]},
        {"tripleset": [["g", "H", "i"]], "annotations": []},
    ]
    xml = (
        "<benchmark><entries><entry><modifiedtripleset><mtriple> a  | B | c &amp;"
        " d</mtriple></modifiedtripleset><lex>one</lex><lex/></entry>"
        "<entry><modifiedtripleset><mtriple>a"
        " | B | c</mtriple><mtriple>c | D | e:"
        " f</mtriple></modifiedtripleset><lex>two</lex></entry></entries></benchmark>"
    )
    files = {"dart-v1.1.1-full-train.json": json.dumps(entries), "dart-v1.1.1-full-test.xml": xml}
    splits = make("dart").load(write(tmp_path / "dart", files))
    assert splits.train[:] == {
        "source": ["a b : is_in : C | C : x : 1"] * 2 + ["d : e : f"],
        "target": ["one", "two", "three"],
    }
    assert splits.notes == ["dart: 2 empty targets of dart-v1.1.1-full-train.json left out"]
    assert splits.evaluation["test"][:] == {
        "source": [" a  : b : c & d", "a : b : c | c : d : e: f"],
        # as the file has them; the metric leaves blank ones out
        "references": [["one", ""], ["two"]],
    }


def test_dialogsum_has_one_summary_or_three(tmp_path):
    row = {"fname": "x", "dialogue": DIALOGUE}
    files = {
        "dialogsum.train.jsonl": json.dumps(row | {"summary": "one", "topic": "t"}) + "\n\n",
        "dialogsum.dev.jsonl": json.dumps(row | {"summary": "dev"}),
        "dialogsum.test.jsonl": json.dumps(
            row | {f"summary{i}": f"s{i}" for i in (1, 2, 3)} | {"topic1": "t"}
        ),
    }
    splits = make("dialogsum", evaluation=["dev", "test"]).load(
        write(tmp_path / "DialogSum", files)
    )
    assert splits.train[:] == {"source": [DIALOGUE], "target": ["one"]}
    assert {name: rows["references"][:] for name, rows in splits.evaluation.items()} == {
        "dev": [["dev"]],
        "test": [["s1", "s2", "s3"]],
    }


@pytest.mark.parametrize(
    ("name", "file", "text", "message"),
    [
        ("e2e", "trainset.csv", "mr,text\n", "trainset.csv, line 1: the columns are"),
        (
            "e2e",
            "trainset.csv",
            'mr,ref\n"name[a]",b\n"name[a",b\n',
            "trainset.csv, line 3: 'name.a' is not of the form",
        ),
        (
            "e2e",
            "trainset.csv",
            "mr,ref\nname[a],b,c\n",
            "trainset.csv, line 2: 3 fields instead of 2",
        ),
        ("e2e", "trainset.csv", "mr,ref\n", "trainset.csv has no rows"),
        (
            "e2e",
            "testset_w_refs.csv",
            "mr,ref\nname[a],b\nname[c], \n",
            "testset_w_refs.csv, entry 2: no reference for 'name : c'",
        ),
        ("dart", "dart-v1.1.1-full-train.json", "[{]", "full-train.json cannot be read"),
        (
            "dart",
            "dart-v1.1.1-full-train.json",
            '[{"tripleset": [["a", "b"]], "annotations": []}]',
            "entry 1: .* is no triple",
        ),
        (
            "dart",
            "dart-v1.1.1-full-train.json",
            '[{"annotations": []}]',
            "entry 1: it needs tripleset",
        ),
        (
            "dart",
            "dart-v1.1.1-full-train.json",
            '{"tripleset": []}',
            "full-train.json: it is no list of entries",
        ),
        (
            "dart",
            "dart-v1.1.1-full-train.json",
            '[{"tripleset": [["a", "B", "c"]], "annotations": [{"text": null}]}]',
            "full-train.json, entry 1: None is no text",
        ),
        (
            "dialogsum",
            "dialogsum.train.jsonl",
            '{"dialogue": "a", "summary1": "b", "summary2": null}',
            "train.jsonl, entry 1: None is no text",
        ),
        (
            "gsm8k",
            "train.jsonl",
            '{"question": "a", "answer": "many"}',
            "entry 1: the answer has no number: 'many'",
        ),
        (
            "dialogsum",
            "dialogsum.train.jsonl",
            '{"dialogue": "a"}',
            "entry 1: no text 'summary' or",
        ),
        ("dialogsum", "dialogsum.train.jsonl", '{"summary": "a"}', "line 1: no text 'dialogue'"),
        ("dialogsum", "dialogsum.train.jsonl", "\n{", "line 2: no JSON"),
        ("gsm8k", "train.jsonl", '{"question": "a", "answer": 3}', "line 1: no text 'answer'"),
    ],
)
def test_a_broken_file_is_an_error_that_says_where(name, file, text, message, tmp_path):
    task = make(name)
    names = [task.files[split].name for split in ("train", "test")]
    folder = write(
        tmp_path / task.official,
        dict.fromkeys(names, "") | (E2E if name == "e2e" else {}) | {file: text},
    )
    with pytest.raises(ValueError, match=message):
        task.load(folder)


def test_what_a_yaml_may_not_say():
    for changes, message in (
        ({"evaluation": ["validation"]}, "evaluation must name some of dev, test"),
        ({"evaluation": []}, "evaluation must name some of dev, test"),
        ({"template": "no slot"}, "template must have {source} in it once"),
        ({"template": "{source} {source}"}, "template must have {source} in it once"),
        ({"max_new_tokens": 0}, "max_new_tokens must be positive"),
    ):
        with pytest.raises(InstantiationException, match=re.escape(message)):
            make("e2e", **changes)


@pytest.mark.parametrize("name", ["e2e", "dart", "dialogsum", "gsm8k", *MINI])
def test_every_task_has_its_score(name):
    task = make(name)
    task.check_metric()
    assert task.generates
    texts = ["so there are 12 of them, all in all", "and here are 5"]
    assert (
        task.score_texts([task.decode(f" {text}\n") for text in texts], [[text] for text in texts])[
            task.primary
        ]
        == 1
    )
    wrong = make(name, primary="matthews_correlation")
    with pytest.raises(
        ValueError,
        match=r"task\.primary: loradrop\.metrics\.text.* gives .*, not 'matthews_correlation'",
    ):
        wrong.check_metric()


def test_several_splits_are_scored_together_and_alone():
    outputs = {
        "dev": (["a b c d e"], [["a b c d e"]]),
        "test": (["v w x y z"], [["a b c d e", "k"]]),
    }
    scores = make("e2e").score(outputs)
    assert (scores["rouge_l"], scores["rouge_l_dev"], scores["rouge_l_test"]) == (0.5, 1.0, 0.0)
    official = [scores[f"e2e_rouge_l{end}"] for end in ("", "_dev", "_test")]
    assert official == pytest.approx([0.5, 1.0, 0.0])


@pytest.mark.parametrize(
    ("name", "official"),
    [
        ("e2e", {"e2e_bleu", "e2e_nist", "e2e_rouge_l", "e2e_cider"}),
        ("dart", {"dart_bleu", "dart_ter", "dart_chrf"}),
        ("dialogsum", {"stemmed_rouge1", "stemmed_rouge2", "stemmed_rouge_l"}),
        ("mini_summary", set()),
    ],
)
def test_official_scores_stand_beside_our_own(name, official):
    ours = set(make("mini_table2text").score_texts(["a b"], [["a b"]]))
    assert set(make(name).score_texts(["a b"], [["a b"]])) == ours | official


def test_a_text_that_is_not_utf_8_is_an_error_that_names_the_file(tmp_path):
    folder = tmp_path / "GSM8K"
    folder.mkdir()
    for name in ("train.jsonl", "test.jsonl"):
        (folder / name).write_bytes(b'{"question": "caf\xe9", "answer": "#### 1"}')
    with pytest.raises(ValueError, match=r"train\.jsonl cannot be read: 'utf-8' codec"):
        make("gsm8k").load(tmp_path)


def test_gsm8k_keeps_the_whole_solution_and_scores_its_final_answer():
    task = make("gsm8k")
    texts = [task.decode(text) for text in (" 3*4=12\n#### 12\n", "it is $1,200.50.", "?")]
    assert texts == ["3*4=12\n#### 12", "it is $1,200.50.", "?"]
    assert task.score_texts(texts, [["#### 12"], ["1200.5"], ["#### 1"]]) == {
        "accuracy": pytest.approx(2 / 3),
        "gsm8k_accuracy": pytest.approx(1 / 3),  # the authors' rule wants ####
    }


# token ids


def rows(*pairs):
    return {"source": [source for source, _ in pairs], "target": [target for _, target in pairs]}


def prompts(*sources):
    return {"source": list(sources), "references": [["x"]] * len(sources)}


def decoded(tokenizer, ids):
    """The text; tiny_roberta's tokenizer puts a space in front of its first word."""
    return tokenizer.decode(ids).removeprefix(" ")


def test_the_prompt_has_the_same_ids_in_training_and_evaluation(tokenizer):
    task = make("mini_table2text")
    sources = ["thing : box", "thing : dog | day : monday"]
    trained = task.encode(rows((sources[0], "a box."), (sources[1], " the dog.")), tokenizer, 100)
    asked = task.encode(prompts(*sources), tokenizer, 100)
    assert set(asked) == {"input_ids", "needed", "fits"} and set(trained) == {*asked, "labels"}
    for ids, labels, prompt, text in zip(
        trained["input_ids"], trained["labels"], asked["input_ids"], sources, strict=True
    ):
        assert (
            ids[: len(prompt)] == prompt and labels == [IGNORED] * len(prompt) + ids[len(prompt) :]
        )
        assert prompt[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
        assert decoded(tokenizer, prompt[1:]) == task.prompt(text)
    assert tokenizer.decode(trained["input_ids"][1][len(asked["input_ids"][1]) : -1]) == " the dog."
    assert trained["fits"] == asked["fits"] == [1, 1]
    assert trained["needed"] == [len(ids) for ids in trained["input_ids"]]
    assert asked["needed"] == [len(ids) + task.max_new_tokens for ids in asked["input_ids"]]


def test_a_long_source_loses_its_end_and_nothing_else_is_cut(tokenizer):
    task = make("mini_summary", template="say it.\n{source}\nin short:", max_new_tokens=5)
    words = [
        f"the {word} slept." for word in ("king", "dog", "cat", "nun", "queen", "fox", "baker")
    ]
    source = " ".join(words)
    whole = task.encode(rows((source, "they slept.")), tokenizer, 200)
    length = len(whole["input_ids"][0])
    assert (
        whole["needed"] == [length]
        and task.encode(rows((source, "they slept.")), tokenizer, length) == whole
    )
    target = [label for label in whole["labels"][0] if label != IGNORED]
    for shorter in (length - 1, length - 9, length - 20):
        cut = task.encode(rows((source, "they slept.")), tokenizer, shorter)
        (ids,), (labels,) = cut["input_ids"], cut["labels"]
        assert shorter - 3 < len(ids) <= shorter and (cut["needed"], cut["fits"]) == ([length], [1])
        assert [label for label in labels if label != IGNORED] == target
        text = decoded(tokenizer, ids[1 : -len(target)])
        assert text.startswith("say it.\n") and text.endswith("\nin short:")
        assert source.startswith(text.removeprefix("say it.\n").removesuffix("\nin short:"))
    asked = task.encode(prompts(source, "a"), tokenizer, 30)
    assert [len(ids) <= 25 for ids in asked["input_ids"]] == [True, True]
    assert asked["needed"][0] > 30 >= asked["needed"][1] and asked["fits"] == [1, 1]


def test_what_cannot_be_cut_does_not_fit(tokenizer):
    task = make("mini_summary", max_new_tokens=10)
    trained = task.encode(rows(("b", "c"), ("b", " ".join(["a"] * 40))), tokenizer, 20)
    assert trained["fits"] == [1, 0] and trained["needed"][1] > 20
    assert task.encode(prompts("b"), tokenizer, 12)["fits"] == [0]


def test_without_a_bos_token_there_is_none_and_without_eos_an_error(monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny_roberta")
    task = make("mini_summary")
    bos = tokenizer.bos_token_id
    tokenizer.bos_token = None
    (ids,) = task.encode(prompts("a dog"), tokenizer, 60)["input_ids"]
    assert bos not in ids and decoded(tokenizer, ids) == task.prompt("a dog")
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end-of-text token"):
        task.encode(prompts("a dog"), tokenizer, 60)


def test_what_token_ids_depend_on():
    assert (
        make("e2e").encoding
        != make("e2e", template="{source}").encoding
        != make("e2e", max_new_tokens=7).encoding
    )


def test_cached_token_ids_end_with_the_tokenizer_s_own_end_of_text(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny_llama")
    task = make("mini_table2text", train_size=3, validation_size=3)
    for end in (tokenizer.eos_token, tokenizer.pad_token):
        tokenizer.eos_token = end
        data = TaskData(task, task.load(None), tokenizer, 100, 2, seeds=Seeds(0), cache=tmp_path)
        assert {ids[-1] for ids in data.train["input_ids"]} == {
            tokenizer.convert_tokens_to_ids(end)
        }
