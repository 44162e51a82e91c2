function searchTab({ state, results, ask, compared }) {
  const n = state.pairs.length, SHOWN = 6, TOP = 10; // hits that are shown, and re-ranked
  let query = { caption: 0 }, scores = null, errors = {}, notes = [], unseenWords = [], stale = false, ticket = 0, timer, encoded = null, reranks = false, second = null;
  const reranked = new Map(); // request -> answer
  const key = (text) => text.trim().toLowerCase();
  const byCaption = new Map(state.pairs.map((pair, i) => [key(pair.caption), i]));
  const input = h("input", { type: "text", "aria-label": "caption to search for", spellcheck: "false", oninput: typed });
  const photo = imageField("the image to search for", async (file) => {
    const uri = await readImage(file);
    if (uri) search({ photo: uri });
    else { errors = { image: `${file.name || "the file"} is not a readable image: use a PNG, JPEG or WebP file` }; update(); }
  });
  const lvlm = state.models[state.lvlms.indexOf(true)];
  const toggle = h("button", { type: "button", class: "chip", "aria-pressed": "false", disabled: !lvlm, title: lvlm ? "the LVLM, adapter off, reads the caption with each of the ten best images" : "needs an LVLM among the models", onclick: () => { reranks = !reranks; rerank(); update(); } }, "re-rank the top ten by likelihood");
  const below = h("p", { class: "message", role: "alert" }), progress = h("p", { class: "soft", role: "status" }), summary = h("p", {});
  const chips = h("div", { class: "row" }), columns = h("div", { class: "columns" }), heading = h("p", { class: "soft" }), unseen = h("p", { class: "soft" });
  const panel = h("div", { class: "search" }, h("div", { class: "query" }, h("div", {}, input, below, unseen, summary, chips), photo.field), progress, h("div", { class: "row" }, toggle, heading), columns);
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
    rerank(own);
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
    rerank(own);
    update();
  }
  const byText = () => "text" in query || "caption" in query;
  const ordered = (values) => values.map((_, i) => i).sort((a, b) => values[b] - values[a]);
  // Ask for the likelihoods of each model's best hits, if they are wanted and not known.
  async function rerank(own = ticket) {
    second = null;
    if (!reranks || !byText() || !scores || stale) return;
    const hits = scores.map((values) => values && ordered(values).slice(0, TOP));
    const request = { do: "rerank", text: "text" in query ? query.text : state.pairs[query.caption].caption, hits }, id = JSON.stringify(request);
    if (!reranked.has(id)) {
      second = "waiting";
      const reply = await ask(request);
      if (!reply.error) reranked.set(id, { ...reply, hits });
      if (own !== ticket || !reranks) return;
      second = null;
      if (reply.error) errors = { search: reply.error };
    }
    second = reranked.get(id) || null;
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
    const isText = byText();
    if ("caption" in query && key(input.value) !== key(state.pairs[query.caption].caption)) input.value = state.pairs[query.caption].caption;
    if (!isText) input.value = "";
    const picture = "photo" in query ? query.photo : "image" in query ? state.images[state.pairs[query.image].image] : "";
    photo.image.hidden = !picture;
    if (picture) photo.image.src = picture;
    photo.image.alt = picture ? "the image searched for" : "";
    photo.field.dataset.empty = picture ? "" : "or an image";
    below.textContent = Object.values(errors).concat(notes, second?.notes || [], results.galleryNotes || []).filter((one, i, all) => all.indexOf(one) === i).join(" ");
    input.setAttribute("aria-invalid", "search" in errors);
    unseen.textContent = unseenWords.length ? `Not in the LVLM’s vocabulary: ${unseenWords.join(", ")}. It reads each as the same unknown word.` : "";
    const target = "caption" in query ? query.caption : "image" in query ? query.image : null;
    heading.textContent = !scores ? "" : isText ? `Best first, of ${plural(n, "image")}. Click an image to search by it.` : `Best first, of ${plural(n, "caption")}. Click a caption to search by it.`;
    toggle.setAttribute("aria-pressed", String(reranks));
    toggle.hidden = !isText;
    columns.replaceChildren(...(scores ? state.models.map((name, m) => modelColumn(name, m, scores[m], target, isText)) : []));
    columns.classList.toggle("stale", stale || second === "waiting");
    columns.setAttribute("aria-busy", stale || second === "waiting");
    drawExamples();
  }
  function modelColumn(name, m, values, target, isText) {
    if (!values) return h("section", { "aria-label": name }, h("b", {}, name), h("p", { class: "soft" }, "no scores: see the message above"));
    const before = ordered(values), logs = second?.scores?.[m], likelihood = new Map(logs ? second.hits[m].map((i, at) => [i, logs[at]]) : []);
    const order = logs ? [...likelihood.keys()].sort((a, b) => likelihood.get(b) - likelihood.get(a)).concat(before.slice(likelihood.size)) : before;
    const best = order.slice(0, reranks && isText ? TOP : SHOWN), first = target === null ? null : rankOf(values, target);
    const rank = first && likelihood.has(target) ? 1 + sum([...likelihood].map(([i, x]) => i !== target && x >= likelihood.get(target))) : first;
    const value = (i) => `${(likelihood.get(i) ?? values[i]).toFixed(2).replace("-", "−")}`;
    const moved = (i, place) => (likelihood.has(i) && before.indexOf(i) + 1 !== place ? ` was ${before.indexOf(i) + 1}.` : "");
    const hit = (i, place) => h("li", {}, h("button", { type: "button", class: `hit${i === target ? " target" : ""}`, "aria-label": `rank ${place}${moved(i, place)}: ${state.pairs[i].caption}${i === target ? ", the target" : ""}`, onclick: () => search(isText ? { image: i } : { caption: i }) },
      isText ? h("img", { src: state.images[state.pairs[i].image], alt: "" }) : null, h("span", {}, h("b", {}, `${place}. `), `${i === target ? "✓ " : ""}${state.pairs[i].caption} `, h("small", {}, value(i), moved(i, place)))));
    const list = best.map((i, at) => hit(i, at + 1));
    if (rank && !best.includes(target)) list.push(hit(target, rank));
    const ranks = logs ? (rank === first ? `stays at rank ${rank}` : `at rank ${first} → ${rank}`) : `at rank ${rank}`;
    const [embed, ask] = second?.seconds?.[m] || [];
    const cost = embed === undefined ? null : h("p", { class: "soft" }, `a query: ${embed.toFixed(2)} s + ${ask.toFixed(2)} s to re-rank${state.lvlms[m] ? "" : `, by the LVLM of ${lvlm}`}`);
    return h("section", { "aria-label": name }, h("b", {}, name), rank ? h("span", { class: rank === 1 ? "yes" : "no" }, ` ${rank === 1 ? "✓" : "✗"} target ${ranks} of ${n}`) : null, cost, h("ol", { class: `found${isText ? "" : " texts"}` }, list));
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
