"""Chat templates: as transformers fills them in, and in a sandbox that lets none out or go on for ever."""

from __future__ import annotations

from pathlib import Path

import pytest
from generation_kit import CHATML, byte_tokenizer, sentence_tokenizer, write_tokenizer

from tundish.backends.generation.chat import ChatTemplate, end_of_turn, template_of
from tundish.backends.generation.tokens import TextTokens
from tundish.ir.diagnostics import LoadError, RunError

HEADERS = """{{- bos_token }}
{%- if not date is defined %}{% set date = "26 Jul 2024" %}{% endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday: " + date + "\\n\\n" + system + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
BRACKETS = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("roles must alternate: user, assistant, user, ...") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""
NO_SYSTEM = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}
{%- endif %}{% for message in messages %}
{%- if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}
{{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}
"""
EXTRAS = """{% macro shown(m) %}<{{ m.role }}>{{ m.content }}{% endmacro %}
{%- for m in messages %}
    {%- if loop.index > 6 %}{% break %}{% endif %}
    {%- if m.role == 'tool' %}{% continue %}{% endif %}
    {%- if m.role == 'assistant' %}{% generation %}{{ shown(m) }}{% set seen = 1 %}{% endgeneration %}
    {%- else %}{{ shown(m) }}{% endif %}
    {{- ' ' ~ loop.index ~ '/' ~ messages|length }}
{%- endfor %}
{%- if seen is defined %} leaked{% endif %}
{{ messages|tojson }}|{{ messages[0]|tojson(indent=2, sort_keys=True) }}|{{ dict(a=1)|tojson }}
{{ strftime_now('%Y') }} {{ range(3)|join('-') }} {{ ('a,b'.split(',')|last).upper() }} {{ 'x' * 3 ~ 2 ** 5 }}
{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|join('+')|replace('H', 'J')|indent(2) }}
{{ "%s=%d" % ('n', 3) }} {{ "{}!".format('go') }} {{ tools is none }} {{ documents is none }} {{ nothing is defined }}
"""
TEMPLATES = {"chatml": CHATML, "headers": HEADERS, "brackets": BRACKETS, "no_system": NO_SYSTEM, "extras": EXTRAS}
SYSTEM = {"role": "system", "content": "  Be <brief> & \"kind\".\n"}
USER = {"role": "user", "content": "Hello 🙂 {{ 1 + 1 }} {% if %}"}
ASSISTANT = {"role": "assistant", "content": " Hi! "}
CHATS = {
    "user": [USER], "system": [SYSTEM, USER], "turns": [USER, ASSISTANT, USER],
    "all": [SYSTEM, USER, ASSISTANT, {"role": "user", "content": "", "extra": None}], "twice": [USER, USER],
    "answer": [USER, ASSISTANT],
}  # fmt: skip
NAMED = {"bos_token": "<|im_start|>", "eos_token": "<|end|>"}


@pytest.mark.parametrize("chat", CHATS.values(), ids=list(CHATS))
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))
@pytest.mark.parametrize("prompt", [True, False])
def test_it_writes_what_transformers_writes(template: str, chat: list[dict[str, str]], prompt: bool) -> None:
    from jinja2 import TemplateError
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), chat_template=template, **NAMED)
    ours = ChatTemplate(template, NAMED)
    try:
        wanted = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
    except TemplateError as refused:
        with pytest.raises(RunError, match=str(refused).split(",")[0]):
            ours.render(chat, add_generation_prompt=prompt)
        return
    assert ours.render(chat, add_generation_prompt=prompt) == wanted


HOSTILE = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "attr": "{{ (messages|attr('__class__')).__mro__ }}",
    "map": "{% for m in messages|map(attribute='__class__') %}{{ m.__mro__ }}{% endfor %}",
    "globals": "{{ raise_exception.__globals__['os'].system('true') }}",
    "init": "{{ namespace.__init__.__globals__.keys() }}",
    "loop": "{{ loop.__init__.__globals__ }}",
    "cycler": "{{ cycler.__init__.__globals__.os }}",
    "format": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "format_map": "{{ '{a.__class__.__mro__}'.format_map({'a': 1}) }}",
    "namespace": "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "change": "{{ messages.append(1) }}",
    "update": "{{ messages[0].update(role='system') }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}{{ os }}",
    "refusal": "{{ raise_exception('no') }}",
    "missing": "{{ nothing.at.all }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "type": "{{ 1 + 'a' }}",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=list(HOSTILE))
def test_no_template_gets_out(source: str) -> None:
    with pytest.raises(RunError, match="does not take these messages"):
        ChatTemplate(source).render([USER])
    assert USER["role"] == "user"


DOUBLED = "{{% set ns = namespace(x={start}) %}}{{% for i in range(60) %}}{step}{{% endfor %}}{{{{ ns.x{end} }}}}"
ENDLESS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}"
    "{% endfor %}{% endfor %}",
    "false": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "times": "{{ 'x' * 10**9 }}",
    "list": "{{ ([0] * 10**9)|length }}",
    "power": "{{ 2 ** 1000000000 }}",
    "squares": DOUBLED.format(start="3", step="{% set ns.x = ns.x * ns.x %}", end=""),
    "tilde": DOUBLED.format(start="'x'", step="{% set ns.x = ns.x ~ ns.x %}", end=""),
    "plus": DOUBLED.format(start="'x'", step="{% set ns.x = ns.x + ns.x %}", end=""),
    "lists": DOUBLED.format(start="[0]", step="{% set ns.x = ns.x + ns.x %}", end="|length"),
    "block": DOUBLED.format(start="'x'", step="{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}", end=""),
    "nested": DOUBLED.format(start="[0]", step="{% set ns.x = [ns.x, ns.x] %}", end=""),
    "json": DOUBLED.format(start="[0]", step="{% set ns.x = [ns.x, ns.x] %}", end="|tojson"),
    "string": DOUBLED.format(start="[0]", step="{% set ns.x = [ns.x, ns.x] %}", end="|string"),
    "printf": DOUBLED.format(start="'x'", step="{% set ns.x = '%s%s' % (ns.x, ns.x) %}", end=""),
    "joined": DOUBLED.format(start="'x'", step="{% set ns.x = [ns.x, ns.x]|join %}", end=""),
    "method": DOUBLED.format(start="'x'", step="{% set ns.x = ns.x.join([ns.x, ns.x]) %}", end=""),
    "replace": DOUBLED.format(start="'xx'", step="{% set ns.x = ns.x|replace('x', ns.x) %}", end=""),
    "replaced": DOUBLED.format(start="'xx'", step="{% set ns.x = ns.x.replace('x', ns.x) %}", end=""),
    "width": "{{ '%1000000000d' % 1 }}",
    "format": "{{ '{:>1000000000}'.format('x') }}",
    "wider": "{{ '{:>{w}}'.format('x', w=10**9) }}",
    "indent": "{{ messages|tojson(indent=10**9) }}",
    "indented": "{{ 'a\nb'|indent(10**9) }}",
    "separator": "{{ range(1000)|join('x' * 1000000) }}",
    "output": "{% for i in range(100000) %}" + "x" * 1000 + "{% endfor %}",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("source", ENDLESS.values(), ids=list(ENDLESS))
def test_no_template_goes_on_without_end(source: str) -> None:
    with pytest.raises(RunError, match="goes on without end"):
        ChatTemplate(source).render([USER])
    assert ChatTemplate("{{ messages[0].content }}").render([USER]) == USER["content"], "the next one is not tired"


def test_what_pads_is_left_out() -> None:
    for source in ("{{ 'x'.center(10**9) }}", "{{ 'x'.zfill(10**9) }}", "{{ 'x'|center(10**9) }}", "{{ lipsum(9) }}"):
        with pytest.raises((RunError, LoadError)):
            ChatTemplate(source).render([USER])


def test_a_long_chat_is_no_attack() -> None:
    chat = [SYSTEM, *[USER | {"content": "word " * 300}, ASSISTANT | {"content": "answer " * 300}] * 500]
    for template in (CHATML, HEADERS, BRACKETS):
        assert len(ChatTemplate(template, NAMED).render(chat[:-1])) > 1_500_000


@pytest.mark.parametrize("source", ["{% for %}", "{{ }", "{% endif %}", "{{ x|frobnicate }}", "{{ " + "(" * 5000])
def test_what_is_no_template(source: str) -> None:
    with pytest.raises(LoadError, match="template is broken"):
        ChatTemplate(source)


@pytest.mark.parametrize("messages", [[], "hi", None, [1], [{}], [{"role": 1, "content": "x"}], {"role": "user"}])
def test_what_is_no_chat(messages: object) -> None:
    with pytest.raises(RunError, match="a chat has|a message of a chat"):
        ChatTemplate(CHATML).render(messages)  # type: ignore[arg-type]


def folder(at: Path, **config: object) -> tuple[Path, TextTokens]:
    return at, TextTokens(write_tokenizer(at, byte_tokenizer(), **NAMED, **config))


def test_where_the_template_lies(tmp_path: Path) -> None:
    assert template_of(*folder(tmp_path)) is None
    many = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    for config, wanted in ((CHATML, "<|im_start|>user"), (many, "d"), (many[:1], None)):
        found = template_of(*folder(tmp_path, chat_template=config))
        assert found is None if wanted is None else found is not None and found.render([USER]).startswith(wanted)
    with pytest.raises(LoadError, match="no text"):
        template_of(*folder(tmp_path, chat_template=3))
    (tmp_path / "chat_template.jinja").write_text("{{ eos_token }}")
    found = template_of(*folder(tmp_path, chat_template=CHATML))
    assert found is not None and found.render([USER]) == "<|end|>"


def test_the_token_that_ends_a_turn(tmp_path: Path) -> None:
    tokens = TextTokens(write_tokenizer(tmp_path, byte_tokenizer()))
    assert end_of_turn(ChatTemplate(CHATML), tokens) == tokens.id_of("<|im_end|>")
    assert end_of_turn(ChatTemplate(NO_SYSTEM, NAMED), tokens) is None, "<end_of_turn> is no token here"
    assert end_of_turn(ChatTemplate(BRACKETS, NAMED), tokens) == tokens.id_of("<|end|>")
    assert end_of_turn(ChatTemplate("{{ raise_exception('no') }}"), tokens) is None
    assert end_of_turn(ChatTemplate("{{ messages[1].content }}"), tokens) is None


def test_tokens_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    for made, template in ((byte_tokenizer(), CHATML), (sentence_tokenizer(), BRACKETS)):
        theirs = PreTrainedTokenizerFast(tokenizer_object=made, chat_template=template, **NAMED)
        theirs.save_pretrained(tmp_path)
        tokens = TextTokens(tmp_path)
        found = template_of(tmp_path, tokens)
        assert found is not None
        ids = tokens.encode(found.render([SYSTEM, USER]), special=False)
        assert ids == theirs.apply_chat_template([SYSTEM, USER], add_generation_prompt=True)["input_ids"]
