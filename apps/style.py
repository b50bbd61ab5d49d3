"""The style sheet of the dashboard, for both themes: colors follow the text's."""

from reports.palette import MASK_COLOR, to_hex

NARROW = 900
"""Width of the window in pixels below which tiles wrap."""


def _wrap(name: str, columns: int) -> str:
    """Return the style of a narrow window: `columns` per row in containers with keys `name`*."""
    width = f"calc({100 / columns:.4f}% - 0.75rem)"
    return f"""
    [class*="st-key-{name}"] .stHorizontalBlock {{ flex-wrap: wrap; }}
    [class*="st-key-{name}"] .stColumn {{ flex: 0 0 {width}; width: {width}; min-width: 0; }}
    """


# Smaller margins than Streamlit's, because ten masks are side by side. Captions, texts of charts
# and selected options have a contrast of at least 4.5, as WCAG asks, which Streamlit's do not have.
STYLE = f"""
.stMainBlockContainer {{ padding: 4.5rem 2.5rem 2rem; }}
.stMain h1 {{ font-size: 1.8rem; padding: 0.25rem 0 0; }}
.stMain h2 {{ font-size: 1.3rem; }}
.stMain h3 {{ font-size: 1.1rem; padding: 0.25rem 0; }}
.stMain [data-testid="stCaptionContainer"] {{ color: inherit; opacity: 0.8; }}
.stMain [data-tag] :is(span, button) {{ color: light-dark(#ffffff, #171614); }}
.stPlotlyChart :is(.infolayer, [class$="tick"]) text {{ fill: currentColor !important; }}
.stMain td div {{ max-width: none; }}
.stMain [data-testid="stSelectbox"] input {{ text-overflow: ellipsis; }}
.stMain .legend {{ display: flex; flex-wrap: wrap; gap: 0.25rem 1.75rem; padding: 0.5rem 0.75rem;
    border: 1px solid color-mix(in srgb, currentColor 20%, transparent); border-radius: 0.5rem;
    font-size: 0.875rem; margin: 0; }}
.legend :is(div, dt, dd) {{ margin: 0; }}
.legend div {{ display: flex; gap: 0.6rem; }}
.legend dt {{ white-space: nowrap; }}
.legend dd {{ opacity: 0.8; }}
.legend .mask {{ display: inline-block; width: 2rem; height: 0.9rem; vertical-align: middle;
    background: color-mix(in srgb, {to_hex(MASK_COLOR)} 65%, #808080);
    border: 2px solid {to_hex(MASK_COLOR)}; }}
@media (max-width: {NARROW}px) {{
    {_wrap("filmstrip", 5)}
    {_wrap("gallery", 3)}
    {_wrap("selection", 2)}
}}
"""
