"""Files of every kind, and of the bad ones, through the confined child."""

import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import docx
import pytest

from apps.rag.cleaning import clean
from apps.rag.parsing.reader import Unreadable, reader
from apps.rag.parsing.sniff import Unsupported, kind_of, mislabelled
from tests.apps.rag import shelf

ROOT = Path(__file__).resolve().parents[3]


def read(content: bytes, kind: str):
    with _file(content) as file:
        return reader.read(file, kind)


def _file(content: bytes):
    file = tempfile.TemporaryFile()  # noqa: SIM115 - its users close it
    file.write(content)
    file.flush()
    file.seek(0)
    return file


def word(paragraphs: list[str], *, hidden: str = "") -> bytes:
    document = docx.Document()
    document.add_heading("Title", 1)
    for text in paragraphs:
        document.add_paragraph(text)
    if hidden:
        document.add_paragraph().add_run(hidden).font.hidden = True
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"0" * 60_000_000)
    return out.getvalue()


def xml_bomb() -> bytes:
    """A billion laughs in an otherwise right DOCX."""
    out = io.BytesIO()
    entities = '<!ENTITY a0 "ha">' + "".join(
        f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10)
    )
    with (
        zipfile.ZipFile(io.BytesIO(word(["x"]))) as right,
        zipfile.ZipFile(out, "w") as archive,
    ):
        for name in right.namelist():
            body = right.read(name)
            if name == "word/document.xml":
                text = body.decode().replace(">x<", ">&a9;<")
                head, _, rest = text.partition("?>")
                body = f"{head}?><!DOCTYPE d [{entities}]>{rest}".encode()
            archive.writestr(name, body)
    return out.getvalue()


class TestKinds:
    @pytest.mark.parametrize(
        ("content", "name", "kind"),
        [
            (shelf.pdf(["hello"]), "a.txt", "pdf"),
            (word(["hello"]), "a.pdf", "docx"),
            (b"<!DOCTYPE html><p>x", "a.docx", "html"),
            (b"# Title\n\ntext", "notes", "markdown"),
            (b"plain words", "a", "text"),
            (b"a,b\n1,2", "t.csv", "csv"),
            ("plain".encode("utf-16"), "a.txt", "text"),
        ],
        ids=["pdf", "docx", "html", "markdown", "text", "csv", "utf-16"],
    )
    def test_are_told_by_content(self, content, name, kind):
        assert kind_of(content, name) == kind

    def test_that_do_not_fit_the_name_are_flagged(self):
        assert mislabelled("html", "report.pdf") == "pdf"
        assert mislabelled("text", "notes.md") == ""

    @pytest.mark.parametrize(
        ("content", "code"),
        [
            (b"", "empty"),
            (b"  \n ", "empty"),
            (b"\x7fELF\x02\x01\x01\x00\x00", "unsupported_type"),
            (b"\x89PNG\r\n\x1a\n\x00\x00", "unsupported_type"),
            (bomb(), "bomb"),
            (b"PK\x03\x04 no zip", "unreadable"),
        ],
        ids=["empty", "blank", "program", "picture", "zip-bomb", "broken-zip"],
    )
    def test_that_cannot_be_read_are_refused_at_once(self, content, code):
        with pytest.raises(Unsupported) as refused:
            kind_of(content, "file.txt")

        assert refused.value.code == code


def locked(pdf: bytes) -> bytes:
    """Return `pdf` as it looks with a password that nobody knows."""
    key = b"<" + b"ab" * 32 + b">"
    lock = b"/Encrypt << /Filter /Standard /V 1 /R 2 /O " + key + b" /U " + key + b" /P -4 >>"
    return pdf.replace(b"trailer << ", b"trailer << " + lock + b" /ID [<00><00>] ")


class TestReading:
    def test_takes_headings_paragraphs_and_tables_of_each_kind(self):
        assert read(word(["One.", "Two."]), "docx")[0] == ["# Title\n\nOne.\n\nTwo."]
        assert read(b"name,age\nAnn,3", "csv")[0] == ["name: Ann\nage: 3"]
        assert "# Head" in read(b"<h1>Head</h1><p>Body</p>", "html")[0][0]
        assert [page.strip() for page in read(shelf.pdf(["one", "two"]), "pdf")[0]] == [
            "one",
            "two",
        ]

    @pytest.mark.parametrize(
        ("content", "kind"),
        [
            (shelf.pdf(["ignore all"], white=True), "pdf"),
            (word(["x"], hidden="ignore all"), "docx"),
            (b"<p>x</p><p style='display: none'>ignore all</p>", "html"),
        ],
        ids=["pdf", "docx", "html"],
    )
    def test_flags_text_that_a_reader_does_not_see(self, content, kind):
        _, flags = read(content, kind)

        assert [flag["kind"] for flag in flags] == ["hidden-text"]

    @pytest.mark.parametrize(
        ("content", "kind", "code"),
        [
            (b"%PDF-1.7 nothing", "pdf", "unreadable"),
            (shelf.pdf([""] * 2_001), "pdf", "too_many_pages"),
            (shelf.pdf([""]), "pdf", "no_text"),
            (locked(shelf.pdf(["secret"])), "pdf", "encrypted"),
            (b"<html><body></body></html>", "html", "no_text"),
        ],
        ids=["corrupt", "too-many-pages", "scan", "encrypted", "no-words"],
    )
    def test_of_a_bad_file_says_what_to_mend(self, content, kind, code):
        with pytest.raises(Unreadable) as refused:
            read(content, kind)

        assert refused.value.code == code

    def test_of_an_xml_bomb_ends_and_the_next_file_is_read(self):
        try:
            pages, _ = read(xml_bomb(), "docx")
        except Unreadable:
            pages = []

        assert sum(map(len, pages)) < 1_000_000
        assert read(b"fine", "text")[0] == ["fine"]

    def test_of_a_page_shows_where_a_passage_stands(self):
        with _file(shelf.pdf(["Nothing here", "The quick brown fox"])) as file:
            (left, top, width, height), *_ = reader.boxes(file, 2, "quick brown")
            picture = reader.picture(file, 2)

        assert 0.1 < left < 0.4
        assert 0.05 < top < 0.2
        assert width > 0 < height
        assert picture.startswith(b"\x89PNG")

    def test_runs_where_there_is_no_network_and_no_other_program(self):
        code = (
            "from apps.rag.parsing.confine import confine\n"
            "import socket, os\n"
            "confine()\n"
            "for call in (socket.socket, lambda: os.execv('/bin/true', ['true'])):\n"
            "    try: call(); print('allowed')\n"
            "    except PermissionError: print('refused')\n"
            "try: bytearray(2 * 1024**3); print('allowed')\n"
            "except MemoryError: print('refused')\n"
        )

        answer = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
        )

        assert answer.stdout.split() == ["refused"] * 3


class TestCleaning:
    def test_takes_out_what_nobody_sees_and_tells_of_it(self):
        made = clean(["ig\u200bno\u200bre\u202e this", "soft\x02\nhyphen  and\u00a0space"])

        assert made.text == "ignore this\n\nsofthyphen and space"
        assert made.flags[0]["kind"] == "hidden-text"
        assert [(page.start, page.end) for page in made.pages] == [(0, 11), (13, 33)]
