// Images and captions as points: zoom, lasso, and an animation from the model before to the model after.
const DURATION = 1400; // milliseconds of the animation
const NEAR = 14; // pixels within which a point is hovered
const LINKED = 400; // pairs up to which every image is linked with its caption
const LISTED = 40; // selected captions that are listed

function mapTab({ model, state, results, ask, compared }) {
  const captions = state.map ? state.map : state.pairs.map((pair) => pair.caption), n = captions.length;
  const maps = new Map(Object.entries(state.maps || {}).map(([key, list]) => [key, list.map(unpackMap)])), thumbnails = new Map();
  let method = "PCA", gap = false, part = 0, view = { zoom: 1, x: 0, y: 0 }, lassoing = false, path = null, focus = null, selection = new Set(model.get("selection") || []), frame = null, running = null, asked = 0, notes = [];
  const canvas = h("canvas", { tabindex: 0, role: "application", "aria-label": "map of images and captions: arrow keys go to the next image, Enter selects it, plus and minus zoom", onkeydown: keys, onpointerdown: grab, onpointermove: hover, onpointerleave: () => focusOn(null), onwheel: wheel });
  const chip = (text, action, label) => h("button", { type: "button", class: "chip", "aria-label": label, onclick: action }, text);
  const play = chip("", animate), slider = h("input", { type: "range", min: 0, max: 100, value: 0, "aria-label": "from the model before to the model after", oninput: () => { stop(); part = slider.value / 100; draw(); } });
  const lasso = chip("lasso", () => { lassoing = !lassoing; update(); }), gapChip = chip("keep the modality gap", () => { gap = !gap; load(); });
  const methods = h("label", { class: "soft" }, "map ", h("select", { "aria-label": "map", onchange: (event) => { method = event.target.value; load(); } }, ["PCA", "UMAP"].map((name) => h("option", {}, name))));
  const message = h("p", { class: "message", role: "alert" }), progress = h("p", { class: "soft", role: "status" }), summary = h("p", { class: "summary" }), hidden = h("div", { class: "hidden", role: "status" });
  const picture = h("img", { alt: "" }), about = h("p", {}), chosen = h("div", {});
  const panel = h("div", { class: "map" },
    h("div", { class: "bar" }, play, slider, lasso, chip("+", () => zoom(1.4), "zoom in"), chip("−", () => zoom(1 / 1.4), "zoom out"), chip("fit", () => { view = { zoom: 1, x: 0, y: 0 }; draw(); }), gapChip, methods),
    summary, message, progress,
    h("div", { class: "mapped" }, h("div", {}, canvas, h("p", { class: "soft" }, h("b", { class: "yes" }, "● image"), "  ", h("b", { class: "no" }, "▲ caption"), " · drag to move, Shift and drag to select; click the map, then scroll to zoom")), h("div", {}, picture, about, chosen)), hidden);

  function unpackMap(one) {
    return one && { images: unpack(one.images), texts: unpack(one.texts) };
  }
  const current = () => maps.get(`${method} ${gap}`);
  // Positions of all points between two models, image i at [2 i], caption i at [2 (n + i)], and their bounds.
  let points = new Float32Array(4 * n), bounds = null;
  function ends() {
    const list = current(), [before, after] = compared();
    return list && list[before] && list[after] ? [list[before], list[after]] : null;
  }
  function place() {
    const both = ends();
    if (!both) return false;
    const s = part * part * (3 - 2 * part);
    for (const [at, kind] of [[0, "images"], [2 * n, "texts"]]) {
      const [a, b] = [both[0][kind], both[1][kind]];
      for (let i = 0; i < 2 * n; i++) points[at + i] = a[i] + s * (b[i] - a[i]);
    }
    return true;
  }
  function measure() {
    const both = ends(), low = [Infinity, Infinity], high = [-Infinity, -Infinity];
    if (!both) return;
    for (const one of both) for (const values of [one.images, one.texts]) values.forEach((x, i) => { low[i % 2] = Math.min(low[i % 2], x); high[i % 2] = Math.max(high[i % 2], x); });
    bounds = { middle: low.map((x, k) => (x + high[k]) / 2), range: low.map((x, k) => Math.max(high[k] - x, 1e-9)) };
  }
  // A function from coordinates to pixels: one scale for both axes, so that distances are those of the map.
  function transform() {
    const width = canvas.clientWidth, height = canvas.clientHeight, edge = 24, scale = view.zoom * Math.min((width - 2 * edge) / bounds.range[0], (height - 2 * edge) / bounds.range[1]);
    return { scale, x: width / 2 + view.x - scale * bounds.middle[0], y: height / 2 + view.y + scale * bounds.middle[1] };
  }
  function draw() {
    if (frame === null) frame = requestAnimationFrame(() => { frame = null; paint(); });
  }
  // The opacity of each pixel of a mark.
  const masks = new Map();
  function maskOf(shape, radius) {
    const ratio = devicePixelRatio, side = Math.ceil(2 * radius * ratio), key = `${shape} ${side}`;
    if (!masks.has(key)) {
      const context = h("canvas", { width: side, height: side }).getContext("2d"), middle = side / 2;
      context.beginPath();
      shape === "circle" ? context.arc(middle, middle, middle - 0.5, 0, 7) : [[middle, 0], [side, side - 1], [0, side - 1]].forEach((at) => context.lineTo(...at));
      context.fill();
      masks.set(key, { side, opacity: context.getImageData(0, 0, side, side).data.filter((_, i) => i % 4 === 3) });
    }
    return masks.get(key);
  }
  // Blend marks into pixels: thousands of them take a few milliseconds, where `drawImage` takes a hundred.
  function blend(image, { side, opacity }, start, { scale, x, y }, color, alpha, is) {
    const pixels = image.data, { width, height } = image, ratio = devicePixelRatio, [red, green, blue] = color;
    for (let i = 0; i < n; i++) {
      if (!is(i)) continue;
      const left = Math.round(ratio * (x + scale * points[2 * (start + i)]) - side / 2), top = Math.round(ratio * (y - scale * points[2 * (start + i) + 1]) - side / 2);
      if (left < 0 || top < 0 || left + side > width || top + side > height) continue;
      for (let row = 0, from = 0; row < side; row++)
        for (let at = 4 * ((top + row) * width + left), end = at + 4 * side; at < end; at += 4) {
          const part = (alpha * opacity[from++]) / 255;
          pixels[at] += (red - pixels[at]) * part;
          pixels[at + 1] += (green - pixels[at + 1]) * part;
          pixels[at + 2] += (blue - pixels[at + 2]) * part;
        }
    }
  }
  let image = null; // kept between frames
  function paint() {
    const ratio = devicePixelRatio, width = canvas.clientWidth, height = canvas.clientHeight, context = canvas.getContext("2d"), size = [width, height].map((one) => Math.round(one * ratio));
    if (!width || !bounds || !place()) return;
    if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
    if (image?.width !== size[0] || image?.height !== size[1]) image = context.createImageData(...size);
    const style = getComputedStyle(panel), colors = ["--bg", "--yes", "--no", "--fg"].map((name) => style.getPropertyValue(name).replace(/light-dark\((.*),(.*)\)/, (_, light, dark) => (isDark() ? dark : light)).trim());
    const [ground, blue, orange] = colors.map((color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16))), to = transform(), some = selection.size > 0, radius = n > 1000 ? 3 : 4.5;
    new Uint32Array(image.data.buffer).fill(((255 << 24) | (ground[2] << 16) | (ground[1] << 8) | ground[0]) >>> 0);
    for (const front of some ? [false, true] : [true]) // selected points last, so that they are on top
      [["circle", 0, blue], ["triangle", n, orange]].forEach(([shape, start, color]) => blend(image, maskOf(shape, radius), start, to, color, front ? (n > 1000 && !some ? 0.7 : 0.9) : 0.18, (i) => !some || selection.has(i) === front));
    context.putImageData(image, 0, 0);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const at = (k) => [to.x + to.scale * points[2 * k], to.y - to.scale * points[2 * k + 1]];
    context.strokeStyle = colors[3];
    for (const [list, alpha] of [[n <= LINKED && !some ? Array(n).keys() : selection.size <= LINKED ? selection : [], 0.22], [focus === null ? [] : [focus % n], 0.9]]) {
      context.globalAlpha = alpha;
      context.beginPath();
      for (const i of list) { context.moveTo(...at(i)); context.lineTo(...at(n + i)); }
      context.stroke();
    }
    context.globalAlpha = 1;
    if (focus !== null) for (const k of [focus % n, n + (focus % n)]) { context.lineWidth = 2; context.beginPath(); context.arc(...at(k), radius + 4, 0, 7); context.stroke(); context.lineWidth = 1; }
    if (path) { context.beginPath(); path.forEach((one) => context.lineTo(...one)); context.closePath(); context.setLineDash([5, 4]); context.stroke(); context.setLineDash([]); }
  }
  const isDark = () => { const scheme = getComputedStyle(panel).colorScheme; return scheme === "dark" || (scheme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches); };

  function nearest(x, y) {
    if (!bounds || !place()) return null;
    const to = transform(), found = { at: null, distance: NEAR ** 2 };
    for (let k = 0; k < 2 * n; k++) {
      const distance = (to.x + to.scale * points[2 * k] - x) ** 2 + (to.y - to.scale * points[2 * k + 1] - y) ** 2;
      if (distance < found.distance) Object.assign(found, { at: k, distance });
    }
    return found.at;
  }
  function focusOn(k) {
    if (k === focus) return;
    focus = k;
    if (k !== null) describe(k);
    draw();
  }
  async function describe(k) {
    const i = k % n, text = `${k < n ? "image" : "caption"} of pair ${i + 1}`;
    about.replaceChildren(h("b", {}, captions[i]), h("small", {}, ` ${text}${selection.has(i) ? ", selected" : ""}`));
    hidden.textContent = `${text}: ${captions[i]}${selection.has(i) ? ", selected" : ""}`;
    if (!state.map) thumbnails.set(i, state.images[state.pairs[i].image]);
    else if (!thumbnails.has(i)) { thumbnails.set(i, ""); thumbnails.set(i, (await ask({ do: "thumbnail", pair: i })).uri || ""); }
    if (focus === null || focus % n !== i) return;
    picture.src = thumbnails.get(i);
    picture.alt = thumbnails.get(i) ? `image ${i + 1}: ${captions[i]}` : "";
  }
  const local = (event) => { const area = canvas.getBoundingClientRect(); return [event.clientX - area.left, event.clientY - area.top]; };
  function hover(event) { if (!event.buttons) focusOn(nearest(...local(event))); }
  function grab(event) {
    if (!bounds) return;
    const selecting = lassoing || event.shiftKey, start = local(event), from = { ...view };
    canvas.setPointerCapture(event.pointerId);
    if (selecting) path = [start];
    const drag = (to) => {
      const [x, y] = local(to);
      if (selecting) path.push([x, y]);
      else Object.assign(view, { x: from.x + x - start[0], y: from.y + y - start[1] });
      draw();
    };
    const end = (to) => {
      canvas.removeEventListener("pointermove", drag);
      const [x, y] = local(to);
      if (selecting) select(inside(path));
      else if (Math.hypot(x - start[0], y - start[1]) < 4) { const k = nearest(x, y); if (k !== null) toggle(k % n); }
      path = null;
      draw();
    };
    canvas.addEventListener("pointermove", drag);
    canvas.addEventListener("pointerup", end, { once: true });
  }
  // The pairs with a point in a polygon, by the even-odd rule.
  function inside(polygon) {
    const to = transform(), found = new Set();
    for (let k = 0; k < 2 * n; k++) {
      const x = to.x + to.scale * points[2 * k], y = to.y - to.scale * points[2 * k + 1];
      let odd = false;
      for (let a = 0, b = polygon.length - 1; a < polygon.length; b = a++)
        if (polygon[a][1] > y !== polygon[b][1] > y && x < ((polygon[b][0] - polygon[a][0]) * (y - polygon[a][1])) / (polygon[b][1] - polygon[a][1]) + polygon[a][0]) odd = !odd;
      if (odd) found.add(k % n);
    }
    return found;
  }
  function toggle(i) {
    const next = new Set(selection);
    next.delete(i) || next.add(i);
    select(next);
  }
  function select(next) {
    selection = next;
    model.set("selection", [...selection].sort((a, b) => a - b)); // Python reads it as page.selection
    model.save_changes();
    list();
    draw();
  }
  function list() {
    const pairs = [...selection].sort((a, b) => a - b);
    chosen.replaceChildren(...(!pairs.length ? [h("p", { class: "soft" }, "nothing selected")] : [
      h("div", { class: "row" }, h("b", {}, `${plural(pairs.length, "pair")} selected`), chip("clear", () => select(new Set()), "clear the selection"), chip("⤓ save JSON", () => download("selection.json", new Blob([JSON.stringify(pairs.map((i) => ({ pair: i, caption: captions[i] })), null, 1)], { type: "application/json" })), "save the selection as JSON")),
      h("ol", {}, pairs.slice(0, LISTED).map((i) => h("li", { value: i + 1 }, captions[i])), pairs.length > LISTED ? h("li", { class: "soft" }, `and ${pairs.length - LISTED} more`) : null)]));
  }
  function zoom(by, at = [canvas.clientWidth / 2, canvas.clientHeight / 2]) {
    const factor = Math.min(60, Math.max(0.5, view.zoom * by)) / view.zoom, center = [canvas.clientWidth / 2, canvas.clientHeight / 2];
    view = { zoom: view.zoom * factor, x: at[0] - center[0] - factor * (at[0] - center[0] - view.x), y: at[1] - center[1] - factor * (at[1] - center[1] - view.y) };
    draw();
  }
  function wheel(event) {
    if (document.activeElement !== canvas && !event.ctrlKey) return; // so that the page scrolls past the map
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), local(event));
  }
  function keys(event) {
    const towards = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    const actions = { "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), 0: () => { view = { zoom: 1, x: 0, y: 0 }; draw(); }, Enter: () => focus !== null && toggle(focus % n), " ": () => focus !== null && toggle(focus % n), Escape: () => select(new Set()) };
    if (event.ctrlKey || event.metaKey || (!towards && !actions[event.key]) || !bounds) return;
    event.preventDefault();
    event.stopPropagation();
    towards ? walk(towards) : actions[event.key]();
  }
  // Go to the nearest image in a direction; distances across it count twice.
  function walk([dx, dy]) {
    place();
    const from = focus === null ? 0 : focus % n, found = { at: from, distance: Infinity };
    for (let i = 0; focus !== null && i < n; i++) {
      const [x, y] = [points[2 * i] - points[2 * from], points[2 * i + 1] - points[2 * from + 1]], along = x * dx + y * dy, distance = along + 2 * Math.abs(x * dy - y * dx);
      if (i !== from && along > 0 && distance < found.distance) Object.assign(found, { at: i, distance });
    }
    focusOn(found.at);
  }
  function stop() { cancelAnimationFrame(running); running = null; }
  function animate() {
    stop();
    const to = part < 0.5 ? 1 : 0, from = part, start = performance.now();
    const step = (now) => {
      const passed = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1 : Math.min(1, (now - start) / DURATION);
      part = from + (to - from) * passed;
      slider.value = 100 * part;
      paint();
      running = passed < 1 ? requestAnimationFrame(step) : null;
      if (running === null) update();
    };
    running = requestAnimationFrame(step);
  }
  // Mean distance of an image to its caption, as a share of that to the captions of other pairs.
  function spread({ images, texts }) {
    const to = (shift) => sum(Array.from({ length: n }, (_, i) => { const j = (i + shift) % n; return Math.hypot(images[2 * i] - texts[2 * j], images[2 * i + 1] - texts[2 * j + 1]); }));
    const shifts = [1, 2, 3, 5, 8].filter((shift) => shift < n);
    return (to(0) * shifts.length) / (sum(shifts.map(to)) || 1);
  }
  async function load() {
    const key = `${method} ${gap}`, own = ++asked;
    notes = [];
    for (let start = 0; start !== undefined && !maps.has(key); ) {
      progress.replaceChildren(start < n ? "encoding the pairs of the map " : "computing the map ", h("progress", { max: n, value: start }));
      const reply = await ask({ do: "map", start, method, gap });
      if (own !== asked) return;
      if (reply.error) { notes = [reply.error]; break; }
      if (reply.maps) maps.set(key, reply.maps.map(unpackMap));
      notes = reply.notes || [];
      start = reply.next;
    }
    progress.textContent = "";
    update();
  }
  function update() {
    const [before, after] = compared(), both = ends();
    measure();
    play.textContent = `▶ ${state.models[part < 0.5 ? before : after]} → ${state.models[part < 0.5 ? after : before]}`;
    lasso.setAttribute("aria-pressed", String(lassoing));
    gapChip.setAttribute("aria-pressed", String(gap));
    canvas.classList.toggle("crosshair", lassoing);
    const share = (one) => `${(100 * spread(one)).toFixed(0)} %`;
    const names = before === after ? [before] : [before, after];
    summary.replaceChildren(...(both ? ["A caption’s distance to its own image, as a share of that to other images: ", h("b", {}, names.map((m, k) => `${state.models[m]} ${share(both[k])}`).join(", ")), "."] : []));
    message.textContent = notes.join(" ");
    list();
    draw();
  }
  model.on("change:selection", () => { selection = new Set(model.get("selection")); list(); draw(); });
  const observer = new ResizeObserver(draw), scheme = matchMedia("(prefers-color-scheme: dark)");
  observer.observe(canvas);
  scheme.addEventListener("change", draw);
  return { panel, update, open: () => (current() ? update() : load()), close: () => { observer.disconnect(); scheme.removeEventListener("change", draw); } };
}
