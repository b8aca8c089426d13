"""What a model, a prompt or a config may hold if somebody means harm."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from benchmarks.dashboard_run import InventedRun, invent_run

_CALL = "globalThis.harmed=1"
_TAGS = (
    "<script>{0}</script>", "<img src=x onerror={0}>", "<svg onload={0}>", "<body onload={0}>",
    "<iframe srcdoc='<script>{0}</script>'></iframe>", "<iframe src='javascript:{0}'></iframe>",
    "<a href='javascript:{0}'>x</a>", "<details open ontoggle={0}>",
    "<input autofocus onfocus={0}>",
    "<video><source onerror={0}></video>", "<object data='javascript:{0}'></object>",
    "<embed src='javascript:{0}'>", "<math><mtext><img src=x onerror={0}></mtext></math>",
    "<style>@import 'javascript:{0}'</style>", "<link rel=stylesheet href='javascript:{0}'>",
    "<meta http-equiv=refresh content='0;url=javascript:{0}'>", "<base href='javascript:{0}//'>",
    "<form action='javascript:{0}'><button autofocus>x</button></form>", "<template><img src=x "
    "onerror={0}></template>", "<noscript><p title='</noscript><img src=x onerror={0}>'>",
)  # fmt: skip
_BREAKERS = ("{0}", "'{0}", '"{0}', "-->{0}", "</script>{0}")
PAYLOADS = [
    breaker.format(tag.format(_CALL)) for breaker in _BREAKERS for tag in _TAGS
]  # 5 * 20 = 100
HIDDEN = "left\u202eright\u202c zero\u200bwidth \x1b[31mred\x07 half \ud800 tag \U000e0041"
COMPONENTS = [f"weight_delta/{PAYLOADS[i]}:{i}" for i in range(6)]
HIDDEN_SHOWN = "leftU+202ErightU+202C zeroU+200Bwidth U+001B[31mredU+0007 half U+D800 tag U+E0041"


def hostile_run() -> InventedRun:
    """An invented run whose words are payloads: each of the hundred stands in a text, a prompt, a
    claim, a sentence, a cluster's exemplar, a group, a judge or a model's name."""
    run = invent_run(400, 4, n_findings=5, n_words=12)
    texts, prompts = run.texts.copy(), run.prompts.copy()
    marked = [PAYLOADS[i] if i < 100 else text for i, text in enumerate(texts["text"])]
    marked[100] = HIDDEN
    texts["text"] = pd.Series(marked, dtype=object)
    prompts["prompt"] = pd.Series(
        [f"{PAYLOADS[i % 100]} {HIDDEN}" for i in range(len(prompts))], dtype=object
    )
    prompts["group"] = [PAYLOADS[(i + 7) % 100] for i in range(len(prompts))]
    wordings = dict(zip(prompts["prompt_key"], prompts["prompt"], strict=True))
    texts["prompt"] = pd.Series([wordings[key] for key in texts["prompt_key"]], dtype=object)
    findings = [
        {
            **finding, "statement": f"{i}: {PAYLOADS[i]} {HIDDEN}", "criterion": PAYLOADS[i + 5],
            "scope": PAYLOADS[i + 9], "cluster": "invented-6-s1" if i == 0 else None,
            "evidence_terms": ["globalThis", "onerror", "quokka", PAYLOADS[i]],
        }
        for i, finding in enumerate(run.findings)
    ]  # fmt: skip
    # The first claim quotes payloads: fresh texts of both sides.
    fresh = texts.iloc[:100][texts["split"].iloc[:100] == "validation"]
    for name, side in (("supporting", "intervention"), ("contradicting", "base")):
        findings[0][name] = fresh["text_key"][fresh["side"] == side].tolist()[:8]
    return replace(
        run,
        config={
            **run.config,
            "base": {"model": f"lab/{PAYLOADS[1]}"},
            "intervention": {"model": f"lab/{PAYLOADS[2]}{HIDDEN}"},
        },
        summary={
            **run.summary, "stop_reason": PAYLOADS[3], "versions": {PAYLOADS[4]: PAYLOADS[5]},
            "stages": [{"stage": "prompts", "reason": PAYLOADS[6]}],
        },
        findings=findings,
        texts=texts,
        prompts=prompts,
        clusters=run.clusters.assign(
            exemplar=[PAYLOADS[i % 100] for i in range(len(run.clusters))]
        ),
        segments=run.segments.assign(
            segment=[PAYLOADS[int(key[:6], 16) % 100] for key in run.segments["segment_key"]]
        ),
        verdicts=run.verdicts.assign(
            judge=[f"{PAYLOADS[8]} {{x" if t == "cheap" else PAYLOADS[9]
                   for t in run.verdicts["tier"]],
            reason=[f"closest: {PAYLOADS[i % 100]}" for i in range(len(run.verdicts))],
        ),
    )  # fmt: skip
