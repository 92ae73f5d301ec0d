"""Writes expected.json: what Jinja2, set up as transformers 4.57 sets it up for chat templates, makes of the
templates and snippets in this folder. Needs Python 3.11 and jinja2 3.1.6."""

import datetime
import json
import pathlib

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2026, 3, 7, 9, 5, 2)
TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "additional_special_tokens": ["<a>", "<b>"],
}


class AssistantTracker(jinja2.ext.Extension):
    """transformers' {% generation %}, without the bookkeeping."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_generation"), [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def _generation(self, context, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


ENVIRONMENT = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[AssistantTracker, jinja2.ext.loopcontrols]
)
ENVIRONMENT.filters["tojson"] = tojson
ENVIRONMENT.globals["raise_exception"] = raise_exception
ENVIRONMENT.globals["strftime_now"] = NOW.strftime


def render(source, conversation):
    """The text, or None where Jinja2 fails."""
    try:
        return ENVIRONMENT.from_string(source).render(
            messages=conversation["messages"],
            tools=conversation.get("tools"),
            documents=conversation.get("documents"),
            add_generation_prompt=conversation.get("add_generation_prompt", True),
            **{**TOKENS, **conversation.get("variables", {})},
        )
    except Exception:
        return None


conversations = json.loads((HERE / "conversations.json").read_text())
snippets = json.loads((HERE / "snippets.json").read_text())
talk = {"messages": [{"role": "user", "content": "Hi"}], "variables": snippets["variables"]}
expected = {
    "templates": {
        file.name: {name: render(file.read_text(), conversation) for name, conversation in conversations.items()}
        for file in sorted((HERE / "templates").glob("*.jinja"))
    },
    "snippets": [render(snippet, talk) for snippet in snippets["snippets"]],
}
(HERE / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=0) + "\n")
