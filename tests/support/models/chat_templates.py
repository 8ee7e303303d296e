"""Chat templates in the manner of the families of models, and hostile ones.

They are written for these tests, and use what the families' own use: macros, namespaces, loop controls, dates, tools.
"""

from __future__ import annotations

from collections.abc import Mapping

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

SLOW_IF_ASKED = "{% if 'be slow' in messages[-1].content %}" + ENDLESS + "{% endif %}" + CHATML
"""One that takes for ever where a message says so."""

FAMILIES: Mapping[str, str] = {
    "chatml": CHATML,
    "llama": """
{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = strftime_now("%d %b %Y") %}{% endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set said = messages[0]['content'] | trim %}{% set messages = messages[1:] %}
{%- else %}{% set said = "" %}{% endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\nToday: " + date_string + "\n\n" }}
{%- if tools is not none %}
    {%- for tool in tools %}{{ tool | tojson(indent=4) }}{{ "\n\n" }}{% endfor %}
{%- endif %}
{{- said }}{{ "<|eot_id|>" }}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}{{ raise_exception("one tool-call at once!") }}{% endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", "parameters": ' }}{{ call.arguments | tojson }}{{ "}<|eot_id|>" }}
    {%- elif message.role in ["tool", "ipython"] %}
        {%- if message.content is mapping or message.content is iterable %}{{ message.content | tojson }}{% endif %}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}
""",
    "gemma": """
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}
""",
    "mistral": """
{{- bos_token }}{% set ns = namespace(index=0, last=-1) %}
{%- for message in messages %}{% if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% continue %}{% endif %}
    {%- if message.role == 'user' %}
        {%- if tools and loop.index0 == ns.last %}{{ '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}
        {{- '[INST] ' }}{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}
        {{- message.content + '[/INST]' }}
    {%- else %}{{ ' ' + message.content | trim + eos_token }}{% endif %}
    {%- if ns.index > 900 %}{% break %}{% endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
""",
    "qwen": """
{%- if tools %}
    {{- '<|im_start|>system\n# Tools\n<tools>' }}{% for tool in tools %}{{ '\n' }}{{ tool | tojson }}{% endfor %}
    {{- '\n</tools><|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string %}
        {%- set ns.multi_step_tool = false %}{% set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- set reasoning = message.reasoning_content if message.reasoning_content is string else '' %}
    {%- if '</think>' in content %}
        {%- set reasoning = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\n' }}
    {%- if loop.index0 > ns.last_query_index and reasoning %}{{ '<think>\n' + reasoning + '\n</think>\n\n' }}{% endif %}
    {{- content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}
{%- endif %}
""",
    "phi": """
{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{ '<|system|>\n' + message['content'] }}
{{- '<|end|>\n' }}{% elif message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + '<|end|>\n' }}{% else %}
{% generation %}{{ '<|assistant|>\n' + message['content'] + '<|end|>\n' }}{% endgeneration %}
{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}
""",
    "deepseek": """
{%- set ns = namespace(is_first=false, system_prompt='') -%}
{%- for message in messages %}{% if message['role'] == 'system' %}{% set ns.system_prompt = ns.system_prompt + message['content'] %}
{%- endif %}{% endfor %}
{%- macro said(message) %}{% if message['role'] == 'user' %}{{ '<\uff5cUser\uff5c>' ~ message['content'] }}{% else %}
{{- '<\uff5cAssistant\uff5c>' ~ (message['content'] or '') ~ '<\uff5cend\uff5c>' }}{% endif %}{% endmacro %}
{{- bos_token ~ ns.system_prompt }}
{%- for message in messages if message['role'] != 'system' %}{{ said(message) }}{% endfor %}
{%- if add_generation_prompt %}{{ '<\uff5cAssistant\uff5c><think>\n' }}{% endif %}
""",
    "everything": """
{%- set d = dict(a=1, b='\u00e9') %}{{ d | tojson }}{{ d | tojson(indent=2, sort_keys=true) }}{{ dict.fromkeys([1, 2]) }}
{%- set ns = namespace(self=1, x='y') %}{{ ns.x }}{{ ns.self }}
{{- messages | map(attribute='role') | join(',') }}{{ messages | tojson(separators=(',', ':'), ensure_ascii=true) }}
{{- messages[0].missing }}{{ messages[0].content | e }}{{ messages[0].content | upper | replace('A', 'b') }}
{{- messages | selectattr('role', 'equalto', 'user') | list | length }}{{ cycler('a', 'b').next() }}
{{- "%s-%05d" | format('x', 42) }}{{ 'a b c'.split(' ')[1:] }}{{ [3, 1, 2] | sort | first }}{{ 7 // 2 ** 2 }}
{{- messages[-1].content[:5] ~ messages[-1].content[::-1] }}{{ documents }}{{ tools }}{{ enable_thinking }}
""",
}

HOSTILE: Mapping[str, tuple[str, str]] = {
    "nested loops": (ENDLESS, "needed more than 0.5 s"),
    "one huge text": ("{{ 'a' * 10**10 }}", "MiB of memory"),
    "a wide format": ("{{ '%10000000000d' % 1 }}", "MiB of memory"),
    "replaced by more": ("{{ ('a' * 99999) | replace('a', 'b' * 99999) }}", "MiB of memory"),
    "doubled again and again": (
        "{% set ns = namespace(x='aa') %}{% for i in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "MiB of memory",
    ),
    "a macro of itself": ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "fails: maximum recursion"),
    "deep brackets": ("{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}", "fails: "),
    "a huge power": ("{{ 9 ** (9 ** 9) }}", "needed more than 0.5 s"),
    "much text": (
        "{% for a in range(99999) %}{{ 'x' * 999 }}{% endfor %}",
        "made more than 1,000,000 characters",
    ),
    "a cycle": ("{% set d = {} %}{{ d.update(d=d) }}", "fails: "),
    "an undefined attribute": ("{{ a.b.c }}", "fails: 'a' is undefined"),
    "no syntax": ("{% if %}", "fails: line 1: "),
    "no template": ("{% include 'x' %}", "fails: "),
    "out of the sandbox": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    "into a namespace": ("{% set ns = namespace(__class__=1) %}", "fails: "),
    "through a function": ("{{ raise_exception.__globals__.os }}", "unsafe"),
    "through the formatter": ("{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}", "unsafe"),
    "a refusal with control characters": (
        "{{ raise_exception('\\x1b[2J\\x00no\\n\\nno\\ud800') }}",
        r"\x1b[2J\x00no no",
    ),
}
"""Each with a part of what is said about it, with half a second, 256 MiB and a million characters."""
