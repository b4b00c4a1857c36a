"""Report of a reconstruction: one HTML file that needs neither a network nor other files."""

import html
import json
from pathlib import Path
from string import Template

import numpy as np

from network_model.figures import WINDOW
from network_model.metrics import LABEL_NAMES
from network_model.report_checks import findings
from network_model.report_pictures import histogram_png, planes_png, residual_png, viewer_page

TEMPLATE = Path(__file__).with_name("templates") / "report.html"
CHI_RANGE = 0.3  # half-width of the histogram of χ [ppm]
LEAST_WINDOW = 1e-5  # of gray scales and histograms, for fields that are next to nothing [ppm]
CITATIONS = (
    "Liu J, Koch KM. Non-locally encoder-decoder convolutional network for whole brain QSM "
    "inversion. arXiv:1904.05493, 2019.",
    "Liu J, et al. arXiv:2206.13225, 2022 (domain-specific batch normalization).",
)
MARKS = {"good": "✓", "note": "!", "bad": "✗"}


def make_report(result, path) -> None:
    """Write the report of one reconstruction.

    Args:
        result: a `reconstruction.Result`.
        path: HTML file to write.

    Raises:
        OSError: the file cannot be written.
    """
    subject, p = result.subject, result.parameters
    found = findings(result)
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=html.escape(str(p.get("Field", "scan"))),
        version=html.escape(f"{p.get('Tool', 'QSMInvNet')} {p.get('Version', '')}"),
        warnings=_warnings(result.warnings),
        tiles=_tiles(p),
        findings=_findings(found),
        pictures=_pictures(result),
        viewers=_viewers(subject, result.chi),
        regions=_regions(result),
        parameters=_parameters(p),
        methods=html.escape(methods_text(p)),
        citations="".join(f"<li>{html.escape(c)}</li>" for c in citations(p)),
    )
    Path(path).write_text(text, encoding="utf-8")


def citations(parameters: dict) -> list[str]:
    """What to cite: the method's papers and the tool."""
    tool = f"{parameters.get('Tool', 'QSMInvNet')}, version {parameters.get('Version', 'unknown')}"
    digest = parameters.get("WeightsSHA256")
    return [*CITATIONS, f"{tool}" + (f", weights SHA-256 {digest[:12]}." if digest else ".")]


def methods_text(parameters: dict) -> str:
    """Methods paragraph that is ready to paste; says what the 2024 consensus asks for."""
    p = parameters
    b0 = f" at {p['MagneticFieldStrength']:g} T" if "MagneticFieldStrength" in p else ""
    size = "×".join(f"{v:.3g}" for v in p.get("VoxelSize", []))
    steps = [_step_text(step) for step in p.get("Steps", [])]
    region = p.get("ReferenceRegion", "none")
    reference = (
        "No reference region was subtracted."
        if region == "none"
        else f"Values are relative to the mean of {region} ({p.get('ReferenceValue_ppm', 0):.4f} "
        f"ppm, {p.get('ReferenceVoxels', 0)} voxels)."
    )
    return (
        f"Susceptibility maps were computed from local field maps{b0} ({size} mm) with "
        f"{p.get('Tool', 'QSMInvNet')} {p.get('Version', '')} (weights {p.get('Weights', '')}, "
        f"SHA-256 {str(p.get('WeightsSHA256', ''))[:12]}; Liu & Koch 2019, arXiv:1904.05493; "
        f"Liu et al. 2022, arXiv:2206.13225): {'; then '.join(steps) or 'one forward pass'}. "
        f"The direction of B0 in voxel axes was {p.get('B0_dir', '')}. Maps are in ppm. {reference}"
    )


def _step_text(step: dict) -> str:
    numbers = {k: v for k, v in step.items() if k != "step"}
    numbers |= {k: v[:12] for k, v in numbers.items() if k.endswith("sha256")}
    listed = ", ".join(f"{k.replace('_', ' ')} {_short(v)}" for k, v in numbers.items())
    return f"{step.get('step', 'step')}" + (f" ({listed})" if listed else "")


def _short(value) -> str:
    if isinstance(value, (list, tuple)):
        return "+".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _warnings(lines) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f'<section class="warnings" role="alert"><h2>Warnings</h2><ul>{items}</ul></section>'


def _tiles(p: dict) -> str:
    """The numbers to see first."""
    shown = {
        "Misfit, network → final": _numbers(
            p, "{:.4f} → {:.4f}", "MisfitNetwork_ppm", "Misfit_ppm"
        ),
        "Noise estimate of the field": _numbers(p, "{:.4f}", "NoiseEstimate_ppm"),
        "χ of the brain, mean ± sd": _numbers(p, "{:.4f} ± {:.4f}", "BrainMean_ppm", "BrainSD_ppm"),
    }
    return "".join(
        f'<div class="tile"><b>{value} <small>ppm</small></b><span>{name}</span></div>'
        for name, value in shown.items()
    )


def _numbers(p: dict, form: str, *keys: str) -> str:
    if not all(k in p for k in keys):
        return "not known"
    # Adding zero turns the −0 of rounding into 0.
    return form.format(*(round(p[k], 4) + 0.0 for k in keys))


def _findings(found) -> str:
    return "".join(
        f'<li class="{f.level}"><i>{MARKS[f.level]}</i><b>{html.escape(f.title)}.</b> '
        f"{html.escape(f.text)}</li>"
        for f in found
    )


def _pictures(result) -> str:
    """Panels and histograms."""
    subject, mask = result.subject, result.subject.mask
    field_window = max(float(np.percentile(np.abs(subject.field[mask]), 99)), LEAST_WINDOW)
    sigma = result.parameters.get("NoiseEstimate_ppm")
    left = max(4 * (sigma or float(result.residual[mask].std())), LEAST_WINDOW)
    columns = {"χ": result.chi, "local field": subject.field, "residual field": result.residual}
    windows = {"χ": WINDOW, "local field": field_window, "residual field": field_window}
    curves = {
        "residual, network": result.residual_network[mask],
        "residual, final": result.residual[mask],
        "local field": subject.field[mask],
    }
    chi = {"final": result.chi[mask], "network": result.chi_network[mask]}
    return "".join((
        _figure(planes_png(subject, columns, windows),
                "Planes through the center of the mask. Field and residual share one gray scale; a "
                "good residual shows no anatomy."),
        "<h3>Residual field</h3>",
        _figure(residual_png(subject, result.residual, left),
                f"Local field minus the field of the map, gray scale ±{left:.4f} ppm"
                + (", four times the noise." if sigma else ".")),
        '<div class="pair">',
        _figure(histogram_png(curves, 2 * field_window, "field [ppm]", sigma),
                "Residual of the network's map and of the final one, beside the field itself."),
        _figure(histogram_png(chi, CHI_RANGE, "χ [ppm]"), "Susceptibility inside the mask."),
        "</div>",
    ))  # fmt: skip


def _figure(png: str, caption: str) -> str:
    text = html.escape(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/png;base64,{png}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _viewers(subject, chi) -> str:
    """χ in gray, and above the magnitude where there is one; each a page within the page."""
    titles = {False: "χ in gray, ±0.1 ppm"}
    if subject.has_magnitude:
        titles = {True: "χ above the magnitude; |χ| < 0.03 ppm is transparent"} | titles
    return "".join(
        f'<figure class="viewer"><iframe title="{title}" loading="eager" '
        f'srcdoc="{html.escape(viewer_page(subject, chi, over))}"></iframe>'
        f"<figcaption>{title}. Click or drag to move, slider: opacity; mm from the center of the "
        "mask's box.</figcaption></figure>"
        for over, title in titles.items()
    )


def region_rows(result) -> list[dict]:
    """Voxels, mean, sd and median χ [ppm] of every label inside the mask; label 0 is none."""
    if result.labels is None:
        return []
    labels = np.where(result.subject.mask, result.labels, 0)
    rows = []
    for number in (int(n) for n in np.unique(labels) if n):
        values = result.chi[labels == number]
        rows.append({
            "label": number,
            "region": LABEL_NAMES.get(number, ""),
            "voxels": values.size,
            "mean": float(values.mean(dtype=float)),
            "sd": float(values.std(dtype=float)),
            "median": float(np.median(values)),
        })  # fmt: skip
    return rows


def _regions(result) -> str:
    rows = region_rows(result)
    if not rows:
        return ""
    body = "".join(
        f"<tr><td>{r['label']}</td><td>{r['region']}</td><td>{r['voxels']:,}</td>"
        f"<td>{r['mean']:.4f} ± {r['sd']:.4f}</td><td>{r['median']:.4f}</td></tr>"
        for r in rows
    )
    return (
        "<section><h2>Regions</h2><table class='regions'><thead><tr><th>label</th><th>region</th>"
        "<th>voxels</th><th>χ, mean ± sd [ppm]</th><th>median [ppm]</th></tr></thead>"
        f"<tbody>{body}</tbody></table><p class='fine'>Names follow the numbering of the 2019 "
        "reconstruction challenge; other numbers are shown without a name.</p></section>"
    )


def _parameters(p: dict) -> str:
    """Table of all that the map's sidecar says, except what stands elsewhere in the report."""
    rows = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{_value(value)}</td></tr>"
        for key, value in p.items()
        if key != "Warnings"
    )
    return f"<table class='parameters'><tbody>{rows}</tbody></table>"


def _value(value) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "<br>".join(html.escape(_step_text(step)) for step in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return html.escape(value if isinstance(value, str) else json.dumps(value, default=str))
