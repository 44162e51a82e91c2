// Where the summary token looks: the image stays bright where the attention is, for each head of a layer.
const MEAN = 0; // a layer or head: the mean over all; they count from 1

// A strip of images to choose from, and a field for another one. `onPick(image)` gets a number or a data URI.
function imagePicker(state, name, onPick, onError) {
  const numbers = [...new Set([...state.pairs.slice(0, 8).map((pair) => pair.image), ...state.cases.slice(0, 2).flatMap((one) => one.images)])].slice(0, 12), prefix = `vk-pick-${Math.random().toString(36).slice(2)}`;
  const own = imageField(name, async (file) => {
    const uri = await readImage(file);
    uri ? choose(uri) : onError(`${file.name || "the file"} is not a readable image: use a PNG, JPEG or WebP file`);
  });
  const strip = h("div", { class: "strip picks", role: "listbox", tabindex: 0, "aria-label": name, onkeydown: (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    choose(numbers[(Math.max(0, numbers.indexOf(picker.image)) + by + numbers.length) % numbers.length]);
  } }, numbers.map((i, k) => h("img", { role: "option", id: `${prefix}-${i}`, src: state.images[i], alt: `image ${k + 1}`, onclick: () => choose(i) })));
  function choose(image) {
    picker.image = image;
    [...strip.children].forEach((node) => node.setAttribute("aria-selected", String(node.id === `${prefix}-${image}`)));
    typeof image === "number" ? strip.setAttribute("aria-activedescendant", `${prefix}-${image}`) : strip.removeAttribute("aria-activedescendant");
    own.image.hidden = typeof image === "number";
    own.field.dataset.empty = own.image.hidden ? "your image" : "";
    if (!own.image.hidden) Object.assign(own.image, { src: image, alt: "your image" });
    onPick(image);
  }
  const picker = { node: h("div", { class: "picker" }, strip, own.field), image: numbers[0], choose, source: () => (typeof picker.image === "number" ? state.images[picker.image] : picker.image) };
  return picker;
}

function attentionTab({ state, ask, compared }) {
  const known = new Map(), pictures = new Map(); // image -> answer; data URI -> Image
  let layer = MEAN, head = MEAN, opacity = 0.7, error = "", ticket = 0;
  const message = h("p", { class: "message", role: "alert" }), progress = h("p", { class: "soft", role: "status" }), columns = h("div", { class: "columns wide" });
  const picker = imagePicker(state, "image to look at", () => read(), (text) => { error = text; update(); });
  const layers = h("select", { "aria-label": "layer", onchange: () => { layer = layers.selectedIndex; update(); } });
  const slider = h("input", { type: "range", min: 0, max: 100, value: 70, "aria-label": "opacity of the overlay", oninput: () => { opacity = slider.value / 100; update(); } });
  const panel = h("div", { class: "attention" }, picker.node, message, h("div", { class: "bar" }, h("label", { class: "soft" }, "layer ", layers), h("label", { class: "soft" }, "overlay ", slider), h("span", { class: "soft" }, "bright: where the summary token looks; one scale for both models"), progress), columns);

  async function read() {
    const image = picker.image, own = ++ticket;
    error = "";
    if (!state.lvlms.includes(true)) error = "no LVLM on this page: a CLIP has no summary token";
    else if (!known.has(image)) {
      progress.textContent = "reading the attention …";
      const reply = await ask({ do: "attention", image });
      if (own !== ticket) return;
      if (reply.error) error = reply.error;
      else {
        known.set(image, { notes: reply.notes, maps: reply.maps.map((one) => one && { ...one, values: unpack(one.values) }) });
        await Promise.all(reply.maps.filter(Boolean).map((one) => { const picture = Object.assign(new Image(), { src: one.image }); pictures.set(one.image, picture); return picture.decode(); }));
      }
    }
    if (own !== ticket) return;
    progress.textContent = "";
    update();
  }
  // The attention (rows × columns) of a layer and a head, or means.
  function grid({ values, shape: [nLayers, nHeads, rows, cols] }, layer, head) {
    const pick = (at, n) => (at === MEAN ? [...Array(n).keys()] : [at - 1]), chosen = pick(layer, nLayers).flatMap((l) => pick(head, nHeads).map((k) => (l * nHeads + k) * rows * cols));
    return Float32Array.from({ length: rows * cols }, (_, i) => sum(chosen.map((start) => values[start + i])) / chosen.length);
  }
  function paint(canvas, picture, values, [, , rows, cols], peak) {
    const context = canvas.getContext("2d"), shade = h("canvas", { width: cols, height: rows }), pixels = new ImageData(cols, rows);
    values.forEach((x, i) => (pixels.data[4 * i + 3] = 255 * opacity * (1 - Math.sqrt(Math.min(1, x / (peak || 1))))));
    shade.getContext("2d").putImageData(pixels, 0, 0);
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    context.drawImage(shade, 0, 0, canvas.width, canvas.height);
  }
  const percent = (x) => `${(100 * x).toFixed(1)} %`;
  function update() {
    const answer = known.get(picker.image), shown = [...new Set(compared())].filter((m) => answer?.maps[m]);
    message.textContent = [error, ...(answer?.notes || [])].filter(Boolean).join(" ");
    if (!shown.length) {
      const missing = [...new Set(compared())].every((m) => !state.lvlms[m]) ? "Choose an LVLM as the model before or after." : "";
      return columns.replaceChildren(h("p", { class: "soft" }, answer ? missing : ""), h("img", { class: "plain", src: picker.source(), alt: "the chosen image" }));
    }
    const count = Math.max(...shown.map((m) => answer.maps[m].shape[0]));
    if (layers.options.length !== count + 1) layers.replaceChildren(...Array.from({ length: count + 1 }, (_, l) => h("option", {}, l === MEAN ? `mean of ${count}` : `${l} of ${count}`)));
    layers.selectedIndex = layer = Math.min(layer, count);
    const peaks = (head) => Math.max(...shown.map((m) => Math.max(...grid(answer.maps[m], layer, head))));
    columns.replaceChildren(...shown.map((m) => column(state.models[m], answer.maps[m], peaks)));
  }
  function column(name, map, peaks) {
    const picture = pictures.get(map.image), [, nHeads, rows, cols] = map.shape, width = 420, height = Math.round((width * rows) / cols);
    const values = grid(map, layer, head), best = values.indexOf(Math.max(...values)), label = (k) => (k === MEAN ? `mean of ${nHeads} heads` : `head ${k}`);
    const at = (i) => `${percent(values[i])} at row ${Math.floor(i / cols) + 1}, column ${(i % cols) + 1}`, about = h("p", { class: "soft" }), usual = `brightest patch: ${at(best)}`;
    about.textContent = usual;
    const canvas = h("canvas", { width, height, role: "img", "aria-label": `${name}, ${label(head)}: ${usual}`, onpointermove: (event) => {
      const area = canvas.getBoundingClientRect(), [c, r] = [Math.floor((cols * (event.clientX - area.left)) / area.width), Math.floor((rows * (event.clientY - area.top)) / area.height)];
      if (r >= 0 && r < rows && c >= 0 && c < cols) about.textContent = `under the mouse: ${at(r * cols + c)}`;
    }, onpointerleave: () => (about.textContent = usual) });
    paint(canvas, picture, values, map.shape, peaks(head));
    const thumbs = Array.from({ length: nHeads + 1 }, (_, k) => {
      const own = grid(map, layer, k), thumb = h("canvas", { width: 96, height: Math.round((96 * rows) / cols) });
      paint(thumb, picture, own, map.shape, peaks(k));
      return h("button", { type: "button", class: "hit", "data-head": k, "aria-pressed": String(k === head), "aria-label": `${name}, ${label(k)}: ${percent(sum([...own]))} of the attention on the image`, onclick: () => { head = k; update(); columns.querySelector(`section[aria-label="${CSS.escape(name)}"] [data-head="${k}"]`)?.focus(); } }, thumb, k === MEAN ? "mean" : `head ${k}`);
    });
    return h("section", { "aria-label": name }, h("b", {}, name), ` ${percent(sum([...values]))} of the attention is on the image`, canvas, about, h("div", { class: "heads" }, thumbs));
  }
  update();
  return { panel, update, open: () => (known.has(picker.image) ? update() : picker.choose(picker.image)) };
}
