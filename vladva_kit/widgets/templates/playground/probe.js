function probeTab({ model, state, results, ask, compared }) {
  const n = state.cases.length, nImages = state.cases[0].images.length, edits = new Map(); // case -> {captions, images, grids, unseen, errors, notes}
  let current = 0, touched = false, filter = "all", listed = state.cases.map((_, i) => i), hovered = null, category = "", worstFirst = false;
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
  const fields = Array.from({ length: nImages }, (_, k) => imageField(`image ${k + 1}`, (file) => replaceImage(k, file)));
  const inputs = [0, 1].map((k) => h("input", { type: "text", "aria-label": `caption ${k + 1}`, spellcheck: "false", oninput: () => typed(k) }));
  const messages = ["caption 1", "caption 2", "image 1", "image 2"].map((field) => [field, h("p", { class: "message", role: "alert" })]);
  const below = Object.fromEntries(messages), notes = h("p", { class: "message", role: "alert" });
  const differs = h("p", { class: "soft" }), unseen = h("p", { class: "soft" });
  const models = h("div", { class: "models" }), readings = h("p", { class: "soft readings" }), said = h("span", { class: "soft" });
  const button = (text, label, action) => h("button", { type: "button", class: "chip", "aria-label": label, onclick: action }, text);
  const reset = button("↺ reset", "reset case", () => { edits.delete(current); update(); });
  const categories = [...new Set(state.cases.map((one) => one.category))].sort();
  const relist = () => { list(); if (listed.length && !listed.includes(current)) current = listed[0]; update(); };
  const menu = h("select", { "aria-label": "category", onchange: () => { category = menu.value; relist(); } }, h("option", { value: "" }, "every category"), categories.map((name) => h("option", {}, name)));
  const worst = h("button", { type: "button", class: "chip", "aria-pressed": "false", title: "by the smallest margin of the model after", onclick: () => { worstFirst = !worstFirst; worst.setAttribute("aria-pressed", String(worstFirst)); list(); if (worstFirst && listed.length) current = listed[0]; update(); } }, "worst first");
  const order = h("div", { class: "row order" }, categories.length > 1 ? menu : null, worst);
  const panel = h("div", { class: "probe", onkeydown: keys, onfocusin: touch, onpointerdown: touch, ondrop: touch },
    h("div", { class: "bar" }, title, button("←", "previous case", () => step(-1)), button("→", "next case", () => step(1)), h("span", { class: "gap" }), chips, reset, button("⤓ save JSON", "save case as JSON", saveJson), button("copy PNG", "copy case as PNG", copyPng), said),
    h("div", { class: "stripbox" }, strip, preview), order,
    h("div", { class: "two" },
      h("div", {}, h("div", { class: "images" }, fields.map((one) => one.field)), below["image 1"], below["image 2"],
        h("p", { class: "soft" }, nImages === 1 ? "drop or paste an image on it, or click it. The first caption is true, the second false." : "drop or paste an image on either one, or click it"),
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
    else own.timer = setTimeout(() => score(own, ticket, i), DEBOUNCE);
    update();
  }
  async function score(own, ticket, i) {
    const errors = {};
    own.captions.forEach((text, k) => { if (!text.trim()) errors[`caption ${k + 1}`] = `caption ${k + 1} is empty: type some words`; });
    const reply = Object.keys(errors).length ? {} : await ask({ do: "score", images: own.images, captions: own.captions, case: i });
    if (ticket !== own.ticket) return; // a newer edit will be scored
    if (reply.field) errors[reply.field] = reply.error;
    const notes = reply.error && !reply.field ? [reply.error] : reply.notes || [];
    Object.assign(own, { errors, notes, grids: reply.scores, unseen: reply.unseen || [], stale: false });
    update();
  }

  function update() {
    const own = shown(), edited = edits.has(current), kindOfCase = state.cases[current].category, now = { case: current, edited };
    if (JSON.stringify(now) !== JSON.stringify(model.get("shown"))) { model.set("shown", now); model.save_changes(); } // for the static view
    title.textContent = `Case ${current + 1} of ${n}` + (edited ? " (edited)" : kindOfCase ? ` · ${kindOfCase}` : "");
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
    const verdict = own.grids ? state.models.map((name, m) => (own.grids[m] ? `${name} ${scoreOf(own.grids[m])}` : "")).filter(Boolean) : [];
    status.textContent = own.stale ? "" : `case ${current + 1} of ${n}, ${edited ? "edited" : kind(current)}. ${verdict.join(", ")}`;
  }
  function drawModels(own) {
    const grids = own.grids || [], [rows, largest] = modelRows(state.models, grids);
    models.replaceChildren(...rows);
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
      h("button", { type: "button", class: `chip ${name}`, "data-filter": name, "aria-pressed": String(filter === name), title: name === "all" ? null : KINDS[name][1], onclick: () => { filter = name; relist(); } },
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
    const after = compared()[1], worstOf = (i) => (results.scores[i]?.[after] ? Math.min(...marginsOf(results.scores[i][after]).flat()) : Infinity);
    listed = state.cases.map((_, i) => i).filter((i) => (filter === "all" || kinds[i] === filter) && (!category || state.cases[i].category === category));
    if (worstFirst) listed.sort((a, b) => worstOf(a) - worstOf(b));
  }
  function hover(i, square) {
    hovered = i;
    preview.hidden = i === null;
    if (i === null) return;
    preview.replaceChildren(h("b", {}, `case ${i + 1}: ${kind(i)}`), h("div", { class: "images" }, state.cases[i].images.map((image, k) => h("div", {}, h("img", { src: source(image), alt: "" }), nImages === 1 ? state.cases[i].captions.map((text, c) => h("div", {}, `${c ? "false" : "true"}: ${text}`)) : state.cases[i].captions[k]))));
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

// "3 of 4" comparisons right, or a mark for the only one.
function scoreOf(grid) {
  const right = marginsOf(grid).flat().map((x) => x > 0);
  return right.length === 1 ? (right[0] ? "✓" : "✗") : `${sum(right)} of 4`;
}

// Return a row for each model with the margins of its four comparisons, below a heading, and the largest margin.
function modelRows(names, grids) {
  const one = grids.some((grid) => grid?.length === 1), cosine = (x) => x.toFixed(2).replace("-", "−");
  const largest = Math.max(0.05, ...grids.filter(Boolean).flatMap((grid) => marginsOf(grid).flat().map(Math.abs)));
  const bar = (name, margin) => {
    const right = margin > 0, side = right ? "left" : "right";
    return h("div", { class: "comparison" }, h("span", {}, `${name} `, h("b", { class: right ? "yes" : "no" }, `${right ? "✓" : "✗"} ${signed(margin)}`)),
      h("div", { class: "track" }, h("i", { class: right ? "pos" : "neg", style: `${side}: 50%; width: ${((50 * Math.abs(margin)) / largest).toFixed(1)}%` })));
  };
  const rows = names.map((name, m) => {
    const grid = grids[m];
    if (!grid) return h("div", { class: "model" }, h("b", {}, name), h("div", { class: "card soft wide" }, grid === undefined ? "no scores yet" : "no score: see the message below"));
    const [byImage, byCaption] = marginsOf(grid), right = isRight(grid);
    if (one) return h("div", { class: "model" }, h("b", {}, name), h("div", { class: "card" }, bar("true − false", byImage[0])), h("div", { class: "soft" }, `true ${cosine(grid[0][0])}, false ${cosine(grid[0][1])}`), h("div", { class: `verdict ${right ? "yes" : "no"}` }, scoreOf(grid)));
    return h("div", { class: "model" }, h("b", {}, name),
      h("div", { class: "card" }, bar("image 1", byImage[0]), bar("image 2", byImage[1])),
      h("div", { class: "card" }, bar("caption 1", byCaption[0]), bar("caption 2", byCaption[1])),
      h("div", { class: `verdict ${right ? "yes" : "no"}` }, scoreOf(grid), h("small", {}, `group ${right ? "✓" : "✗"}`)));
  });
  if (one) return [[h("div", { class: "model head soft" }, h("span"), h("span", {}, "does the ", h("b", {}, "image"), " pick its true caption?"), h("span", {}, "cosines"), h("span", {}, "SugarCrepe")), ...rows], largest];
  const head = h("div", { class: "model head soft" }, h("span"), h("span", {}, "does each ", h("b", {}, "image"), " pick its own caption?"), h("span", {}, "does each ", h("b", {}, "caption"), " pick its own image?"), h("span", {}, "Winoground"));
  return [[head, ...rows], largest];
}

// Draw a case on white, for a slide or a paper: its images, its captions and each model's margins.
function casePng(own, models, images) {
  const rows = models.filter((_, m) => (own.grids || [])[m]), width = 860, height = 250 + 34 * rows.length, canvas = h("canvas", { width: 2 * width, height: 2 * height });
  const context = canvas.getContext("2d");
  context.scale(2, 2);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  const write = (text, x, y, color = "#1d1d1f", font = "14px system-ui, sans-serif", limit = 400) => { context.fillStyle = color; context.font = font; context.fillText(text, x, y, limit); };
  images.forEach((image, k) => context.drawImage(image, 20 + 430 * k, 16, 160, 160));
  own.captions.forEach((text, k) => write(`${images.length === 1 ? ["true", "false"][k] : k + 1}. ${text}`, 20 + 430 * k, 198));
  (images.length === 1 ? ["true − false"] : ["image 1", "image 2", "caption 1", "caption 2"]).forEach((label, k) => write(label, 210 + 150 * k, 228, "#5f6368"));
  models.forEach((model, m) => {
    const at = rows.indexOf(model), grid = (own.grids || [])[m];
    if (!grid) return;
    write(model, 20, 256 + 34 * at, "#1d1d1f", "bold 14px system-ui, sans-serif", 180);
    marginsOf(grid).flat().forEach((margin, k) => write(`${margin > 0 ? "✓" : "✗"} ${signed(margin)}`, 210 + 150 * k, 256 + 34 * at, margin > 0 ? "#0b5c94" : "#a84300", "bold 14px system-ui, sans-serif"));
  });
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
