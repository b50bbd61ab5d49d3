"""Checks of a dashboard page in the browser: layout and accessibility."""

import json

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, TimeoutError

LOOK_TIMEOUT = 15_000
"""Milliseconds until a page must look right after the window or the theme changed."""
AXE_OPTIONS = {
    "resultTypes": ["violations"],
    "rules": {"region": {"enabled": False}},
    # Slow, and only for rules that are off or whose findings are not serious.
    "preload": False,
}

# Texts that the layout cuts, elements on top of each other, and content wider than the window.
PROBLEMS = """(theme) => {
    const main = document.querySelector('[data-testid=stMain]');
    const found = [];
    const name = e => `${e.dataset.testid || e.tagName} ${(e.value || e.textContent).slice(0, 40)}`;
    if (getComputedStyle(document.querySelector('[data-testid=stApp]')).colorScheme !== theme)
        found.push('theme is not ' + theme);
    if (main.scrollWidth > main.clientWidth) found.push('the page is wider than the window');
    const skipped = 'svg, .stPlotlyChart, [data-testid=stDataFrame], [data-testid=stIconMaterial],'
        + '[aria-hidden=true], [role=img], details:not([open])';
    for (const e of main.querySelectorAll('*')) {
        if (e.clientWidth < 3 || e.closest(skipped)) continue; // hidden visually
        const cuts = e.tagName === 'INPUT' || getComputedStyle(e).overflowX !== 'visible';
        const text = e.value || [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
        if (cuts && text && e.scrollWidth > e.clientWidth + 1) found.push('cut: ' + name(e));
    }
    for (const e of main.querySelectorAll('.stPlotlyChart .main-svg, [data-testid=stDataFrame]'))
        if (!e.closest('details:not([open])') && e.getBoundingClientRect().right > innerWidth)
            found.push('too wide: ' + name(e));
    const boxes = [...main.querySelectorAll('[data-testid=stElementContainer]')]
        .filter(e => !e.closest('details:not([open])')).map(e => [e, e.getBoundingClientRect()])
        .filter(([, r]) => r.width > 2 && r.height > 2);
    boxes.forEach(([e, a], k) => boxes.slice(k + 1).forEach(([f, b]) => {
        if (!e.contains(f) && a.left + 2 < b.right && b.left + 2 < a.right
            && a.top + 2 < b.bottom && b.top + 2 < a.bottom)
            found.push(`overlap: ${name(e)} and ${name(f)}`);
    }));
    return found;
}"""


def check_layout(page: Page, theme: str) -> None:
    """Wait until the page has the theme, and fits its window without cuts and overlaps."""
    try:
        fits = f"!({PROBLEMS})({json.dumps(theme)}).length"
        page.wait_for_function(fits, timeout=LOOK_TIMEOUT, polling=100)
    except TimeoutError:
        problems = page.evaluate(f"({PROBLEMS})({json.dumps(theme)})")
        raise AssertionError("; ".join(problems[:10]) or "the layout did not settle") from None


def accessibility_findings(page: Page) -> list[str]:
    """Return axe's serious and critical findings on the page."""
    return [
        f"{found['id']}: {found['help']}: {node['html'][:150]}"
        for found in Axe().run(page, options=AXE_OPTIONS).response["violations"]
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]
