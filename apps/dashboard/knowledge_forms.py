"""Forms of the knowledge bases' pages; what an order may say is checked by the actions."""

from typing import Any

import msgspec
from django import forms
from django.http import QueryDict
from django.utils.datastructures import MultiValueDict

from apps.dashboard.forms import RefusableForm
from apps.dashboard.knowledge import deployments_that
from apps.rag.settings import DEFAULTS, Retrieval

AUTO, WORDS_ONLY = "auto", "words"
MOST_BYTES = 20 * 1024**2
"""Of a file of judgements."""
_NUMBER = {"inputmode": "numeric", "autocomplete": "off"}


def _embedders() -> list[tuple[str, str]]:
    return [
        (AUTO, "The oldest embedding deployment"),
        *((name, name) for name in deployments_that("embed")),
        (WORDS_ONLY, "None: keywords only"),
    ]


class EmbedderForm(RefusableForm):
    """A form that asks which deployment makes the vectors."""

    problem_fields = {"embedding_deployment": "embedder"}

    embedder = forms.ChoiceField(required=False)

    def __init__(self, data: QueryDict | None = None) -> None:
        super().__init__(data)
        self.fields["embedder"].choices = _embedders()  # type: ignore[attr-defined]

    def chosen(self) -> str | None:
        """Return what `embedding.choose` takes: a name, "" for words only, None to choose."""
        given: str = self.cleaned_data["embedder"]
        return {"": None, AUTO: None, WORDS_ONLY: ""}.get(given, given)


class KnowledgeForm(EmbedderForm):
    """A new knowledge base."""

    name = forms.CharField(max_length=80, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    description = forms.CharField(max_length=500, required=False)


class BuildForm(EmbedderForm):
    """A new index beside the live one; empty sizes fit the embedder."""

    chunk_characters = forms.IntegerField(
        required=False, min_value=100, max_value=20_000, widget=forms.NumberInput(attrs=_NUMBER)
    )
    overlap_characters = forms.IntegerField(
        required=False, min_value=0, max_value=10_000, widget=forms.NumberInput(attrs=_NUMBER)
    )
    flip_when_ready = forms.BooleanField(required=False)

    def __init__(self, data: QueryDict | None = None) -> None:
        super().__init__(data)
        for name in ("chunk_characters", "overlap_characters"):
            self.fields[name].widget.attrs["placeholder"] = "fits the embedder"

    def clean(self) -> dict[str, Any]:
        """Refuse an overlap as long as the chunk."""
        given: dict[str, Any] = super().clean() or self.cleaned_data
        size, overlap = given.get("chunk_characters"), given.get("overlap_characters")
        if size and overlap and overlap >= size:
            self.add_error("overlap_characters", "It must be less than the characters of a chunk.")
        return given


class AttachForm(RefusableForm):
    """A model name in front of a deployment."""

    deployment = forms.ChoiceField()

    def __init__(self, data: QueryDict | None = None) -> None:
        super().__init__(data)
        names = [(name, name) for name in deployments_that("chat")]
        self.fields["deployment"].choices = names  # type: ignore[attr-defined]


class ProfileForm(RefusableForm):
    """The next version of a profile."""

    problem_fields = {"profile": "name"}

    name = forms.RegexField(
        r"\A[a-z0-9][a-z0-9-]{0,62}\Z",
        error_messages={"invalid": "Use a-z, 0-9 and -, at most 63 characters."},
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    mode = forms.ChoiceField(
        choices=[("hybrid", "Vectors and words"), ("dense", "Vectors"), ("lexical", "Words")]
    )
    fusion = forms.ChoiceField(choices=[("rrf", "By rank (RRF)"), ("min-max", "By score")])
    dense_weight = forms.FloatField(
        min_value=0, max_value=1, widget=forms.NumberInput(attrs={"step": "0.05"})
    )
    top_k = forms.IntegerField(min_value=1, max_value=100, widget=forms.NumberInput(attrs=_NUMBER))
    feedback_words = forms.IntegerField(
        min_value=0, max_value=50, widget=forms.NumberInput(attrs=_NUMBER)
    )
    feedback_vectors = forms.IntegerField(
        min_value=0, max_value=20, widget=forms.NumberInput(attrs=_NUMBER)
    )
    mmr = forms.FloatField(
        required=False,
        min_value=0,
        max_value=1,
        widget=forms.NumberInput(attrs={"step": "0.05", "placeholder": "off"}),
    )
    rerank_deployment = forms.ChoiceField(required=False)

    def __init__(self, data: QueryDict | None = None) -> None:
        super().__init__(data, initial=msgspec.to_builtins(DEFAULTS))
        names = deployments_that("embed") + deployments_that("rerank")
        choices = [("", "Off"), *((name, name) for name in names)]
        self.fields["rerank_deployment"].choices = choices  # type: ignore[attr-defined]

    def settings(self) -> Retrieval:
        """Return the settings of a valid form; what it does not ask has its default."""
        given = {key: value for key, value in self.cleaned_data.items() if key != "name"}
        return msgspec.structs.replace(DEFAULTS, **given)


class JudgementsForm(RefusableForm):
    """Judged questions, as text or as a file."""

    problem_fields = {"format": "form"}

    form = forms.ChoiceField(choices=[("csv", "CSV"), ("jsonl", "JSONL"), ("trec", "TREC qrels")])
    text = forms.CharField(required=False, strip=False, widget=forms.Textarea(attrs={"rows": 6}))
    file = forms.FileField(required=False)

    def __init__(
        self, data: QueryDict | None = None, files: "MultiValueDict[str, Any] | None" = None
    ) -> None:
        super().__init__(data, files)

    def given(self) -> str:
        """Return the text of a valid form: of the file, else what was pasted."""
        file = self.cleaned_data["file"]
        if file is None:
            return str(self.cleaned_data["text"])
        return str(file.read(MOST_BYTES).decode("utf-8", errors="replace"))
