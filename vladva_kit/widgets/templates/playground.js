// The playground's page: browsing, typing, keys and drawing run here, and Python only encodes. A request is a message
// {id, do, …}, the answer has the same id. Text enters the page through `append`, which escapes it.
const DEBOUNCE = 250; // milliseconds after the last key press until typed text is scored
const PATIENCE = 8000; // milliseconds until the page says that Python has not answered
const CASES_STEP = 6; // cases that one request scores
const LARGEST = 1024; // pixels; larger images are scaled down before they are sent
const NO_PYTHON = "Scoring needs Python: run the cell again, or start vladva play. Browsing works without it.";
const SLOW_PYTHON = "Waiting for Python: the kernel is busy or stopped. Browsing still works.";
const KINDS = {
  fixed: ["+", "wrong before, right after"],
  broken: ["−", "right before, wrong after"],
  right: ["", "right with both models"],
  wrong: ["", "wrong with both models"],
};

function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  // JupyterLab takes keys from whatever has the focus, unless that very element says otherwise: "d d" deletes a cell
  if (tag === "button" || "tabindex" in attributes) node.setAttribute("data-lm-suppress-shortcuts", "true");
  node.append(...children.flat().filter((child) => child != null));
  return node;
}

const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
const sum = (values) => values.reduce((a, b) => a + b, 0);
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

// Winoground's four comparisons of a grid [image][caption]; all have to be positive.
const marginsOf = (grid) => [
  [grid[0][0] - grid[0][1], grid[1][1] - grid[1][0]], // each image prefers its caption
  [grid[0][0] - grid[1][0], grid[1][1] - grid[0][1]], // each caption prefers its image
];
const isRight = (grid) => marginsOf(grid).flat().every((margin) => margin > 0);
const kindOf = (before, after) => (before ? (after ? "right" : "broken") : after ? "fixed" : "wrong");

function reading(grid) {
  const margins = marginsOf(grid).map((pair) => pair.map((margin) => margin > 0));
  if (margins.flat().every(Boolean)) return "all four comparisons are right";
  const [byImage, byCaption] = margins;
  const parts = [];
  if (byCaption[0] !== byCaption[1]) parts.push(`both captions prefer image ${byCaption[0] ? 1 : 2}`);
  if (byImage[0] !== byImage[1]) parts.push(`both images prefer caption ${byImage[0] ? 1 : 2}`);
  return parts.join(", ") || "images and captions are matched the wrong way round";
}

// Split two captions into [word, differs] by their longest common subsequence of words.
export function wordDiff(left, right) {
  const [a, b] = [left, right].map((text) => text.trim().split(/\s+/));
  const common = Array.from({ length: a.length + 1 }, () => new Array(b.length + 1).fill(0));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      common[i][j] = a[i] === b[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
  const marked = [a.map((word) => [word, true]), b.map((word) => [word, true])];
  for (let i = 0, j = 0; i < a.length && j < b.length; )
    if (a[i] === b[j]) (marked[0][i++][1] = false), (marked[1][j++][1] = false);
    else if (common[i + 1][j] >= common[i][j + 1]) i++;
    else j++;
  return marked;
}
const markedWords = (words) => words.map(([word, differs], i) => [i ? " " : "", differs ? h("mark", {}, word) : word]).flat();

// Return a function that sends a request and resolves to its answer; `onSlow(true)` is called if that takes long.
function connect(model, onSlow) {
  const waiting = new Map(), view = Math.random().toString(36).slice(2);
  let count = 0;
  const listen = (reply) => (waiting.get(reply.id) || (() => {}))(reply);
  model.on("msg:custom", listen);
  const ask = (request) =>
    new Promise((resolve) => {
      if (!model.send) return resolve({ error: NO_PYTHON });
      const id = `${view}-${++count}`, timer = setTimeout(() => onSlow(true), PATIENCE);
      waiting.set(id, (reply) => {
        waiting.delete(id);
        clearTimeout(timer);
        onSlow(false);
        resolve(reply);
      });
      model.send({ ...request, id });
    });
  return { ask, close: () => model.off("msg:custom", listen) };
}

// Read a dropped, pasted or chosen file as a data URI of at most LARGEST pixels; null if it is not an image.
async function readImage(file) {
  try {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
    const canvas = h("canvas", { width: Math.max(1, Math.round(bitmap.width * scale)), height: Math.max(1, Math.round(bitmap.height * scale)) });
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff"; // transparent images are composited on white, as in Python
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL("image/png");
  } catch {
    return null;
  }
}

function download(name, blob) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// An image that can be replaced: click, drop a file, or paste one while it has the focus. `onFile(file)` gets the file.
function imageField(name, onFile) {
  const image = h("img", { alt: "" });
  const input = h("input", { type: "file", accept: "image/*", class: "hidden", "aria-label": `replace ${name}`, onchange: () => { if (input.files[0]) onFile(input.files[0]); input.value = ""; } });
  const over = (on) => (event) => { event.preventDefault(); event.stopPropagation(); field.classList.toggle("over", on); };
  const field = h("label", {
    class: "image", title: "click, drop or paste an image",
    ondragenter: over(true), ondragover: over(true), ondragleave: over(false),
    ondrop: (event) => { over(false)(event); if (event.dataTransfer.files[0]) onFile(event.dataTransfer.files[0]); },
    onpaste: (event) => {
      const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
      if (file) { event.preventDefault(); event.stopPropagation(); onFile(file); }
    },
  }, image, input);
  return { field, image };
}

function probeTab({ state, results, ask, compared }) {
  const n = state.cases.length, edits = new Map(); // case -> {captions, images, grids, unseen, errors, notes}
  let current = 0, touched = false, filter = "all", listed = state.cases.map((_, i) => i), hovered = null;
  const original = (i) => ({ captions: [...state.cases[i].captions], images: [...state.cases[i].images], grids: results.scores[i], errors: {}, notes: [], unseen: [] });
  const shown = () => edits.get(current) || original(current);
  const source = (image) => (typeof image === "number" ? state.images[image] : image);
  const kind = (i) => {
    const grids = results.scores[i], [before, after] = compared();
    return grids && grids[before] && grids[after] ? kindOf(isRight(grids[before]), isRight(grids[after])) : "unscored";
  };

  const title = h("b", { class: "title" }), chips = h("span", { class: "row" }), status = h("div", { role: "status", class: "hidden" });
  const strip = h("div", { class: "strip", role: "listbox", tabindex: 0, "aria-label": "cases" });
  const preview = h("div", { class: "preview", hidden: true, "aria-hidden": "true" });
  const fields = [0, 1].map((k) => imageField(`image ${k + 1}`, (file) => replaceImage(k, file)));
  const inputs = [0, 1].map((k) => h("input", { type: "text", "aria-label": `caption ${k + 1}`, spellcheck: "false", oninput: () => typed(k) }));
  const messages = ["caption 1", "caption 2", "image 1", "image 2"].map((field) => [field, h("p", { class: "message", role: "alert" })]);
  const below = Object.fromEntries(messages), notes = h("p", { class: "message", role: "alert" });
  const differs = h("p", { class: "soft" }), unseen = h("p", { class: "soft" });
  const models = h("div", { class: "models" }), readings = h("p", { class: "soft readings" }), said = h("span", { class: "soft" });
  const button = (text, label, action) => h("button", { type: "button", class: "chip", "aria-label": label, onclick: action }, text);
  const reset = button("↺ reset", "reset case", () => { edits.delete(current); update(); });
  const panel = h("div", { class: "probe", onkeydown: keys, onfocusin: touch, onpointerdown: touch, ondrop: touch },
    h("div", { class: "bar" }, title, button("←", "previous case", () => step(-1)), button("→", "next case", () => step(1)), h("span", { class: "gap" }), chips, reset, button("⤓ save JSON", "save case as JSON", saveJson), button("copy PNG", "copy case as PNG", copyPng), said),
    h("div", { class: "stripbox" }, strip, preview),
    h("div", { class: "two" },
      h("div", {}, h("div", { class: "images" }, fields.map((one) => one.field)), below["image 1"], below["image 2"],
        h("p", { class: "soft" }, "drop or paste an image on either one, or click it"),
        inputs[0], below["caption 1"], inputs[1], below["caption 2"], differs, unseen),
      h("div", {}, models, notes, readings)), status);

  function touch() { touched = true; }
  function keys(event) {
    if (event.target.matches("input") || event.altKey || event.ctrlKey || event.metaKey) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const to = { Home: listed[0], End: listed[listed.length - 1] }[event.key];
    if (!by && to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    by ? step(by) : go(to);
  }
  function step(by) {
    if (!listed.length) return;
    const at = listed.indexOf(current);
    go(at < 0 ? listed[0] : listed[(at + by + listed.length) % listed.length]);
  }
  function go(i) { current = i; update(); }

  function edit() {
    if (!edits.has(current)) edits.set(current, original(current));
    return edits.get(current);
  }
  function typed(k) {
    edit().captions[k] = inputs[k].value;
    changed();
  }
  async function replaceImage(k, file) {
    const i = current, uri = await readImage(file), field = `image ${k + 1}`;
    if (i !== current) return;
    if (uri) { edit().images[k] = uri; delete edit().errors[field]; changed(); }
    else { edit().errors[field] = `${file.name || "the file"} is not a readable image: use a PNG, JPEG or WebP file`; update(); }
  }
  function changed() {
    const i = current, own = edit(), ticket = (own.ticket = (own.ticket || 0) + 1);
    own.stale = true;
    clearTimeout(own.timer);
    const same = JSON.stringify([own.captions, own.images]) === JSON.stringify([state.cases[i].captions, state.cases[i].images]);
    if (same) edits.delete(i);
    else own.timer = setTimeout(() => score(own, ticket), DEBOUNCE);
    update();
  }
  async function score(own, ticket) {
    const errors = {};
    own.captions.forEach((text, k) => { if (!text.trim()) errors[`caption ${k + 1}`] = `caption ${k + 1} is empty: type some words`; });
    const reply = Object.keys(errors).length ? {} : await ask({ do: "score", images: own.images, captions: own.captions });
    if (ticket !== own.ticket) return; // a newer edit will be scored
    if (reply.field) errors[reply.field] = reply.error;
    const notes = reply.error && !reply.field ? [reply.error] : reply.notes || [];
    Object.assign(own, { errors, notes, grids: reply.scores, unseen: reply.unseen || [], stale: false });
    update();
  }

  function update() {
    const own = shown(), edited = edits.has(current), category = state.cases[current].category;
    title.textContent = `Case ${current + 1} of ${n}` + (edited ? " (edited)" : category ? ` · ${category}` : "");
    reset.disabled = !edited;
    own.images.forEach((image, k) => {
      if (fields[k].image.src !== source(image)) fields[k].image.src = source(image);
      fields[k].image.alt = `image ${k + 1}: ${typeof image === "number" ? state.cases[current].captions[k] : "your image"}`;
      if (document.activeElement !== inputs[k] || inputs[k].value !== own.captions[k]) inputs[k].value = own.captions[k];
      inputs[k].setAttribute("aria-invalid", `caption ${k + 1}` in own.errors);
    });
    for (const [field, node] of messages) node.textContent = own.errors[field] || "";
    const words = wordDiff(...own.captions);
    differs.replaceChildren(...(own.captions[0] === own.captions[1] ? ["the captions are equal"] : ["scores follow as you type · differs: ", ...markedWords(words[0]), " ↔ ", ...markedWords(words[1])]));
    unseen.textContent = own.unseen.length ? `Not in the LVLM’s vocabulary: ${own.unseen.join(", ")}. It reads each as the same unknown word.` : "";
    notes.textContent = [...new Set([...own.notes, ...(edited ? [] : results.notes)])].join(" ");
    said.textContent = "";
    drawModels(own);
    drawStrip();
    const verdict = own.grids ? state.models.map((name, m) => (own.grids[m] ? `${name} ${sum(marginsOf(own.grids[m]).flat().map((x) => x > 0))} of 4` : "")).filter(Boolean) : [];
    status.textContent = own.stale ? "" : `case ${current + 1} of ${n}, ${edited ? "edited" : kind(current)}. ${verdict.join(", ")}`;
  }
  function drawModels(own) {
    const grids = own.grids || [], largest = Math.max(0.05, ...grids.filter(Boolean).flatMap((grid) => marginsOf(grid).flat().map(Math.abs)));
    const bar = (name, margin) => {
      const right = margin > 0, side = right ? "left" : "right";
      return h("div", { class: "comparison" }, h("span", {}, `${name} `, h("b", { class: right ? "yes" : "no" }, `${right ? "✓" : "✗"} ${signed(margin)}`)),
        h("div", { class: "track" }, h("i", { class: right ? "pos" : "neg", style: `${side}: 50%; width: ${((50 * Math.abs(margin)) / largest).toFixed(1)}%` })));
    };
    const rows = state.models.map((name, m) => {
      const grid = grids[m];
      if (!grid) return h("div", { class: "model" }, h("b", {}, name), h("div", { class: "card soft wide" }, grid === undefined ? "no scores yet" : "no score: see the message below"));
      const [byImage, byCaption] = marginsOf(grid), right = sum([...byImage, ...byCaption].map((x) => x > 0));
      return h("div", { class: "model" }, h("b", {}, name),
        h("div", { class: "card" }, bar("image 1", byImage[0]), bar("image 2", byImage[1])),
        h("div", { class: "card" }, bar("caption 1", byCaption[0]), bar("caption 2", byCaption[1])),
        h("div", { class: `verdict ${right === 4 ? "yes" : "no"}` }, `${right} of 4`, h("small", {}, `group ${right === 4 ? "✓" : "✗"}`)));
    });
    models.replaceChildren(h("div", { class: "model head soft" }, h("span"), h("span", {}, "does each ", h("b", {}, "image"), " pick its own caption?"), h("span", {}, "does each ", h("b", {}, "caption"), " pick its own image?"), h("span", {}, "Winoground")), ...rows);
    models.classList.toggle("stale", Boolean(own.stale));
    models.setAttribute("aria-busy", Boolean(own.stale));
    const chosen = [...new Set(compared())].filter((m) => grids[m]);
    readings.replaceChildren(...chosen.flatMap((m) => [h("b", {}, state.models[m]), `: ${reading(grids[m])}. `]), ...(chosen.length ? [`Bars: difference of cosines, up to ±${largest.toFixed(2)}.`] : []));
  }
  function drawStrip() {
    const kinds = state.cases.map((_, i) => kind(i)), counts = {};
    kinds.forEach((one) => (counts[one] = (counts[one] || 0) + 1));
    const names = compared()[0] === compared()[1] ? ["right", "wrong"] : Object.keys(KINDS);
    const focused = chips.contains(document.activeElement) && document.activeElement.dataset.filter;
    chips.replaceChildren(...["all", ...names].map((name) =>
      h("button", { type: "button", class: `chip ${name}`, "data-filter": name, "aria-pressed": String(filter === name), title: name === "all" ? null : KINDS[name][1], onclick: () => { filter = name; list(); if (listed.length && !listed.includes(current)) current = listed[0]; update(); } },
        name === "all" ? null : h("i", { class: `square ${name}`, "aria-hidden": "true" }, KINDS[name][0]), `${name} ${name === "all" ? n : counts[name] || 0}`)));
    if (focused) chips.querySelector(`[data-filter="${focused}"]`)?.focus();
    list(kinds);
    strip.replaceChildren(...listed.map((i) => h("span", {
      role: "option", id: `${prefix}-${i}`, class: `square ${kinds[i]}${edits.has(i) ? " edited" : ""}`, "aria-selected": String(i === current), "aria-label": `case ${i + 1}: ${kinds[i]}${edits.has(i) ? ", edited" : ""}`,
      onclick: () => go(i), onmouseenter: (event) => hover(i, event.target), onmouseleave: () => hover(null) }, (KINDS[kinds[i]] || [""])[0])));
    if (!listed.length) strip.replaceChildren(h("span", { class: "soft" }, counts.unscored ? "none yet" : "none"));
    listed.includes(current) ? strip.setAttribute("aria-activedescendant", `${prefix}-${current}`) : strip.removeAttribute("aria-activedescendant");
    if (hovered !== null && !listed.includes(hovered)) hover(null);
  }
  const prefix = `vk-case-${Math.random().toString(36).slice(2)}`;
  function list(kinds = state.cases.map((_, i) => kind(i))) {
    listed = state.cases.map((_, i) => i).filter((i) => filter === "all" || kinds[i] === filter);
  }
  function hover(i, square) {
    hovered = i;
    preview.hidden = i === null;
    if (i === null) return;
    preview.replaceChildren(h("b", {}, `case ${i + 1}: ${kind(i)}`), h("div", { class: "images" }, state.cases[i].images.map((image, k) => h("div", {}, h("img", { src: source(image), alt: "" }), state.cases[i].captions[k]))));
    preview.style.top = `${square.offsetTop + 22}px`;
    preview.style.left = `${Math.max(0, Math.min(square.offsetLeft - 20, strip.offsetWidth - 300))}px`;
  }

  const name = () => `case-${state.cases[current].id.replace(/[^\w-]+/g, "_")}`;
  function saveJson() {
    const own = shown(), scores = Object.fromEntries(state.models.map((model, m) => [model, (own.grids || [])[m] || null]));
    const record = { id: state.cases[current].id, edited: edits.has(current), captions: own.captions, images: own.images.map(source), scores };
    download(`${name()}.json`, new Blob([JSON.stringify(record, null, 1)], { type: "application/json" }));
    said.textContent = "saved";
  }
  async function copyPng() {
    const blob = casePng(shown(), state.models, fields.map((one) => one.image));
    try {
      await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
      said.textContent = "copied";
    } catch { // without permission, or on a page without https
      download(`${name()}.png`, await blob);
      said.textContent = "saved as PNG, since the browser allows no copy";
    }
  }
  async function scoreAll() {
    for (let i = 0; i < n; ) {
      const missing = [];
      for (; i < n && missing.length < CASES_STEP; i++) if (!results.scores[i]) missing.push(i);
      if (!missing.length) break;
      const reply = await ask({ do: "cases", cases: missing });
      if (reply.error) { results.notes = [...new Set([...results.notes, reply.error])]; update(); break; }
      Object.assign(results.scores, reply.scores);
      results.notes = [...new Set([...results.notes, ...reply.notes])];
      const fixed = state.cases.findIndex((_, i) => kind(i) === "fixed");
      if (!touched && fixed >= 0) current = fixed; // a success first
      edits.has(current) ? drawStrip() : update();
    }
  }
  current = Math.max(0, state.cases.findIndex((_, i) => kind(i) === "fixed"));
  update();
  return { panel, update, scoreAll };
}

// Draw a case on white, for a slide or a paper: its images, its captions and each model's margins.
function casePng(own, models, images) {
  const rows = models.filter((_, m) => (own.grids || [])[m]), width = 860, height = 250 + 34 * rows.length, canvas = h("canvas", { width: 2 * width, height: 2 * height });
  const context = canvas.getContext("2d");
  context.scale(2, 2);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  const write = (text, x, y, color = "#1d1d1f", font = "14px system-ui, sans-serif", limit = 400) => { context.fillStyle = color; context.font = font; context.fillText(text, x, y, limit); };
  images.forEach((image, k) => { context.drawImage(image, 20 + 430 * k, 16, 160, 160); write(`${k + 1}. ${own.captions[k]}`, 20 + 430 * k, 198); });
  ["image 1", "image 2", "caption 1", "caption 2"].forEach((label, k) => write(label, 210 + 150 * k, 228, "#5f6368"));
  models.forEach((model, m) => {
    const at = rows.indexOf(model), grid = (own.grids || [])[m];
    if (!grid) return;
    write(model, 20, 256 + 34 * at, "#1d1d1f", "bold 14px system-ui, sans-serif", 180);
    marginsOf(grid).flat().forEach((margin, k) => write(`${margin > 0 ? "✓" : "✗"} ${signed(margin)}`, 210 + 150 * k, 256 + 34 * at, margin > 0 ? "#0b5c94" : "#a84300", "bold 14px system-ui, sans-serif"));
  });
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

function searchTab({ state, results, ask, compared }) {
  const n = state.pairs.length, SHOWN = 6;
  let query = { caption: 0 }, scores = null, errors = {}, notes = [], unseenWords = [], stale = false, ticket = 0, timer, encoded = null;
  const key = (text) => text.trim().toLowerCase();
  const byCaption = new Map(state.pairs.map((pair, i) => [key(pair.caption), i]));
  const input = h("input", { type: "text", "aria-label": "caption to search for", spellcheck: "false", oninput: typed });
  const photo = imageField("the image to search for", async (file) => {
    const uri = await readImage(file);
    if (uri) search({ photo: uri });
    else { errors = { image: `${file.name || "the file"} is not a readable image: use a PNG, JPEG or WebP file` }; update(); }
  });
  const below = h("p", { class: "message", role: "alert" }), progress = h("p", { class: "soft", role: "status" }), summary = h("p", {});
  const chips = h("div", { class: "row" }), columns = h("div", { class: "columns" }), heading = h("p", { class: "soft" }), unseen = h("p", { class: "soft" });
  const panel = h("div", { class: "search" }, h("div", { class: "query" }, h("div", {}, input, below, unseen, summary, chips), photo.field), progress, heading, columns);
  const column = (matrix, j) => Array.from({ length: n }, (_, i) => matrix[i * n + j]); // matrix[image][caption]
  const row = (matrix, i) => Array.from(matrix.subarray(i * n, i * n + n));
  // Rank of a target; a tie counts as a miss.
  const rankOf = (values, target) => (Number.isNaN(values[target]) ? null : 1 + sum(values.map((x, i) => i !== target && x >= values[target])));

  function typed() {
    const at = byCaption.get(key(input.value));
    search(at === undefined ? { text: input.value } : { caption: at }, DEBOUNCE);
  }
  function search(next, delay = 0) {
    query = next;
    errors = {};
    notes = [];
    unseenWords = [];
    const own = ++ticket, matrices = results.matrices;
    clearTimeout(timer);
    if (matrices && "caption" in query) scores = matrices.map((one) => one && column(one, query.caption));
    else if (matrices && "image" in query) scores = matrices.map((one) => one && row(one, query.image));
    else {
      stale = true;
      timer = setTimeout(() => askPython(own), delay);
    }
    if (matrices && !("text" in query || "photo" in query)) stale = false;
    update();
  }
  async function askPython(own) {
    const request = "photo" in query ? { image: query.photo } : "image" in query ? { image: state.pairs[query.image].image } : { text: "text" in query ? query.text : state.pairs[query.caption].caption };
    if (request.text !== undefined && !request.text.trim()) errors = { search: "the field is empty: type some words" };
    const reply = Object.keys(errors).length ? {} : await encodeAll().then((failed) => failed || ask({ do: "search", ...request }));
    if (own !== ticket) return; // a newer query was made
    stale = false;
    scores = reply.scores || null;
    notes = reply.notes || [];
    unseenWords = reply.unseen || [];
    if (reply.error) errors = { [reply.field || "search"]: reply.error };
    update();
  }
  // Encode all pairs once, step by step; resolves to an answer with an error, or to nothing.
  function encodeAll() {
    return (encoded ||= (async () => {
      for (let start = 0; !results.matrices; ) {
        progress.replaceChildren("encoding the gallery ", h("progress", { max: n, value: start }), ` ${start} of ${n}`);
        const reply = await ask({ do: "gallery", start });
        if (reply.error) { progress.textContent = reply.error; encoded = null; return reply; }
        if (reply.matrices) results.matrices = reply.matrices.map(unpack);
        start = reply.next;
        results.galleryNotes = reply.notes;
      }
      progress.textContent = "";
      if (ticket === 0) openOnFixed();
      else if ("caption" in query || "image" in query) search(query);
    })());
  }
  // The first query is one that only the last model answers.
  function openOnFixed() {
    const fixed = kinds()?.indexOf("fixed");
    search({ caption: Math.max(0, fixed ?? 0) });
  }
  function open() {
    if (results.matrices) scores ? update() : openOnFixed();
    else encodeAll();
  }

  function update() {
    const isText = "text" in query || "caption" in query;
    if ("caption" in query && key(input.value) !== key(state.pairs[query.caption].caption)) input.value = state.pairs[query.caption].caption;
    if (!isText) input.value = "";
    const picture = "photo" in query ? query.photo : "image" in query ? state.images[state.pairs[query.image].image] : "";
    photo.image.hidden = !picture;
    if (picture) photo.image.src = picture;
    photo.image.alt = picture ? "the image searched for" : "";
    photo.field.dataset.empty = picture ? "" : "or an image";
    below.textContent = Object.values(errors).concat(notes, results.galleryNotes || []).filter((one, i, all) => all.indexOf(one) === i).join(" ");
    input.setAttribute("aria-invalid", "search" in errors);
    unseen.textContent = unseenWords.length ? `Not in the LVLM’s vocabulary: ${unseenWords.join(", ")}. It reads each as the same unknown word.` : "";
    const target = "caption" in query ? query.caption : "image" in query ? query.image : null;
    heading.textContent = !scores ? "" : isText ? `Best first, of ${plural(n, "image")}. Click an image to search by it.` : `Best first, of ${plural(n, "caption")}. Click a caption to search by it.`;
    columns.replaceChildren(...(scores ? state.models.map((name, m) => modelColumn(name, scores[m], target, isText)) : []));
    columns.classList.toggle("stale", stale);
    columns.setAttribute("aria-busy", stale);
    drawExamples();
  }
  function modelColumn(name, values, target, isText) {
    if (!values) return h("section", { "aria-label": name }, h("b", {}, name), h("p", { class: "soft" }, "no scores: see the message above"));
    const order = values.map((_, i) => i).sort((a, b) => values[b] - values[a]), best = order.slice(0, SHOWN);
    const rank = target === null ? null : rankOf(values, target);
    const hit = (i, place) => h("li", {}, h("button", { type: "button", class: `hit${i === target ? " target" : ""}`, "aria-label": `rank ${place}: ${state.pairs[i].caption}${i === target ? ", the target" : ""}`, onclick: () => search(isText ? { image: i } : { caption: i }) },
      isText ? h("img", { src: state.images[state.pairs[i].image], alt: "" }) : null, h("span", {}, h("b", {}, `${place}. `), `${i === target ? "✓ " : ""}${state.pairs[i].caption} `, h("small", {}, values[i].toFixed(2).replace("-", "−")))));
    const list = best.map((i, at) => hit(i, at + 1));
    if (rank && !best.includes(target)) list.push(hit(target, rank));
    return h("section", { "aria-label": name }, h("b", {}, name), rank ? h("span", { class: rank === 1 ? "yes" : "no" }, ` ${rank === 1 ? "✓" : "✗"} target at rank ${rank} of ${n}`) : null, h("ol", { class: `found${isText ? "" : " texts"}` }, list));
  }
  // For each caption, whether the models before and after find its image.
  function kinds(found = []) {
    const [before, after] = compared(), matrices = results.matrices;
    if (!matrices || !matrices[before] || !matrices[after]) return null;
    for (const m of [before, after]) found.push(state.pairs.map((_, j) => rankOf(column(matrices[m], j), j) === 1));
    return state.pairs.map((_, j) => kindOf(found[0][j], found[1][j]));
  }
  // Example captions: first those that only the last model finds, then those that only the first does.
  function drawExamples() {
    const [before, after] = compared(), found = [], known = kinds(found);
    if (!known) return chips.replaceChildren();
    const of = (name) => known.flatMap((kind, j) => (kind === name ? [j] : []));
    const share = (m) => `${state.models[[before, after][m]]} finds ${sum(found[m])}`;
    summary.textContent = before === after ? `${share(0)} of ${n} images.` : `${share(0)}, ${share(1)} of ${n} images: ${of("fixed").length} fixed, ${of("broken").length} broken.`;
    const examples = [...of("fixed").slice(0, 4), ...of("broken").slice(0, 2), ...of("wrong").slice(0, 1), ...of("right").slice(0, 1)];
    const focused = chips.contains(document.activeElement) && document.activeElement.textContent;
    chips.replaceChildren(...examples.map((j) => h("button", { type: "button", class: "chip", title: KINDS[known[j]][1], "aria-pressed": String(query.caption === j), onclick: () => search({ caption: j }) }, h("i", { class: `square ${known[j]}`, "aria-label": known[j] }, KINDS[known[j]][0]), state.pairs[j].caption)));
    if (focused) [...chips.children].find((one) => one.textContent === focused)?.focus();
  }
  update();
  return { panel, update, open, encodeAll };
}

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

const unpack = (text) => text && new Float32Array(Uint8Array.from(atob(text), (char) => char.charCodeAt(0)).buffer);

function render({ model, el }) {
  const state = model.get("state"), names = state.models, id = `vk-${Math.random().toString(36).slice(2)}`;
  const results = { scores: { ...state.scores }, matrices: state.matrices ? state.matrices.map(unpack) : null, notes: [], galleryNotes: [] };
  const slow = h("p", { class: "message", role: "status" });
  const { ask, close } = connect(model, (isSlow) => (slow.textContent = isSlow ? SLOW_PYTHON : ""));
  let compare = [0, names.length - 1], open = 0;
  const shared = { state, results, ask, compared: () => compare };
  const probe = probeTab(shared), search = searchTab(shared);
  const matrix = matrixTab({ ...shared, encodeAll: search.encodeAll });
  const tabs = [["Probe", probe], ["Search", search], ["Matrix", matrix]];
  const buttons = tabs.map(([name], at) => h("button", { type: "button", role: "tab", id: `${id}-tab-${at}`, "aria-controls": `${id}-panel-${at}`, onclick: () => show(at) }, name));
  const panels = tabs.map(([, tab], at) => h("div", { role: "tabpanel", id: `${id}-panel-${at}`, "aria-labelledby": `${id}-tab-${at}` }, tab.panel));
  const choice = (label, at) => h("label", { class: "soft" }, `${label} `, h("select", { "aria-label": label, onchange: (event) => { compare[at] = event.target.selectedIndex; tabs[open][1].update(); } }, names.map((name, m) => h("option", { selected: m === compare[at] }, name))));
  const tablist = h("div", { role: "tablist", "aria-label": "playground", onkeydown: (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    show((open + by + tabs.length) % tabs.length);
    buttons[open].focus();
  } }, buttons);
  function show(at) {
    open = at;
    buttons.forEach((button, i) => { button.setAttribute("aria-selected", String(i === at)); button.tabIndex = i === at ? 0 : -1; panels[i].hidden = i !== at; });
    tabs[at][1].open ? tabs[at][1].open() : tabs[at][1].update();
  }
  el.append(h("div", { class: "vk-play" }, h("div", { class: "tabs" }, tablist, h("span", { class: "gap" }), names.length > 1 ? [choice("before", 0), choice("after", 1)] : null), slow, panels));
  show(0);
  if (model.send) probe.scoreAll();
  return close;
}

export default { render };
