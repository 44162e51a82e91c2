// Similarities of some images with their captions, all models on one color scale, or the change between two models.
function matrixTab({ state, results, compared, encodeAll }) {
  const all = state.pairs.length, n = Math.min(16, all), prefix = `vk-cell-${Math.random().toString(36).slice(2)}`;
  let selected = [0, 0], difference = false; // [image, caption]
  const toggle = h("button", { type: "button", class: "chip", "aria-pressed": "false", onclick: () => { difference = !difference; toggle.setAttribute("aria-pressed", String(difference)); update(); } }, "difference after − before");
  const progress = h("p", { class: "message", role: "status" }), scale = h("span", { class: "soft" }), grids = h("div", { class: "columns" });
  const image = h("img", { alt: "" }), detail = h("div", { class: "detail", role: "status" }, image, h("div", {}));
  const panel = h("div", {}, h("div", { class: "bar" }, h("b", {}, `${plural(n, "image")} by their captions`), toggle, scale), progress, grids, detail);
  const value = (m, [i, j]) => results.matrices[m] ? results.matrices[m][i * all + j] : NaN;
  const signedOr = (x) => (Number.isFinite(x) ? (difference ? signed(x) : x.toFixed(2).replace("-", "−")) : "—");

  function update() {
    if (!results.matrices) return;
    const [before, after] = compared(), cells = Array.from({ length: n * n }, (_, k) => [k % n, Math.floor(k / n)]); // a row is a caption
    const shown = difference ? [[`${state.models[after]} − ${state.models[before]}`, (cell) => value(after, cell) - value(before, cell)]] : state.models.map((name, m) => [name, (cell) => value(m, cell)]);
    const values = shown.flatMap(([, of]) => cells.map(of)).filter(Number.isFinite);
    const low = Math.min(...values), high = Math.max(...values), reach = Math.max(Math.abs(low), Math.abs(high)) || 1;
    const color = (x) => {
      if (!Number.isFinite(x)) return "none";
      const part = difference ? Math.abs(x) / reach : (x - low) / (high - low || 1);
      return `color-mix(in srgb, var(--${difference && x < 0 ? "no" : "yes"}) ${(100 * part).toFixed(0)}%, var(--bg))`;
    };
    scale.textContent = !values.length ? "" : difference ? `orange: lower, blue: higher, up to ±${reach.toFixed(2)}` : `pale ${signedOr(low)} to blue ${signedOr(high)}, one scale for all models; an image’s own caption is framed`;
    grids.replaceChildren(...shown.map(([name, of], m) => h("section", { "aria-label": name }, h("b", {}, name),
      h("div", { class: "matrix", style: `--n: ${n}`, role: "listbox", tabindex: 0, "aria-label": `${name}: cells, arrow keys move`, "aria-activedescendant": `${prefix}-${m}-${selected.join("-")}`, onkeydown: keys },
        Array.from({ length: n }, (_, i) => h("img", { src: state.images[state.pairs[i].image], alt: "" })),
        cells.map((cell) => h("i", { role: "option", id: `${prefix}-${m}-${cell.join("-")}`, class: cell[0] === cell[1] ? "own" : "", "data-cell": cell.join("-"), "aria-label": `image ${cell[0] + 1}, caption ${cell[1] + 1}: ${signedOr(of(cell))}`, style: `background: ${color(of(cell))}`, onmouseenter: () => describe(cell), onmouseleave: () => describe(selected), onclick: () => select(cell) }))))));
    select(selected);
  }
  function keys(event) {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    select(selected.map((at, k) => Math.min(n - 1, Math.max(0, at + by[k]))));
  }
  function select(cell) {
    selected = cell;
    for (const node of grids.querySelectorAll("i")) node.setAttribute("aria-selected", String(node.dataset.cell === cell.join("-")));
    grids.querySelectorAll(".matrix").forEach((matrix, m) => matrix.setAttribute("aria-activedescendant", `${prefix}-${m}-${cell.join("-")}`));
    describe(cell);
  }
  function describe([i, j]) {
    const [before, after] = compared(), scores = state.models.map((name, m) => `${name} ${Number.isFinite(value(m, [i, j])) ? value(m, [i, j]).toFixed(2).replace("-", "−") : "—"}`);
    const change = value(after, [i, j]) - value(before, [i, j]);
    image.src = state.images[state.pairs[i].image];
    image.alt = `image ${i + 1}: ${state.pairs[i].caption}`;
    detail.lastChild.replaceChildren(h("b", {}, state.pairs[j].caption), h("p", { class: "soft" }, `image ${i + 1} with caption ${j + 1}${i === j ? ", its own" : ""}`), h("p", {}, scores.join(" · "), before !== after && Number.isFinite(change) ? ` · change ${signed(change)}` : ""));
  }
  async function open() {
    if (!results.matrices) progress.textContent = "encoding the gallery …";
    const failed = await encodeAll();
    progress.textContent = failed ? failed.error : "";
    update();
  }
  return { panel, update, open };
}
