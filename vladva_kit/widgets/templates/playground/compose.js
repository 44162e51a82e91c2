// Compose a Winoground case: drag two things; the twin, which differs by a swap, and all scores follow. The browser
// draws both scenes as the emoji world's renderer does, and Python encodes what is seen.
const SWAPS = { positions: ["noun", "color", "size", "look"], objects: ["noun"], colors: ["color"], sizes: ["size"] };
const OVERLAP = 0.42, HIDDEN = 0.2; // distances of two centers, as parts of the sum of both sides
const TRIES = 40; // scenes among which one is sought that splits the models
const NATURAL = "natural colors";

// A seeded random number generator (mulberry32): the same seed draws the same scene.
function generator(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const distance = ([a, b], sizes) => Math.hypot(a.x - b.x, a.y - b.y) / (sizes[a.size] + sizes[b.size]);
export function relationOf({ things, front }, sizes) {
  const [a, b] = things, dx = b.x - a.x, dy = b.y - a.y;
  if (distance(things, sizes) < OVERLAP) return front === 0 ? "in front of" : "behind";
  return Math.abs(dx) >= Math.abs(dy) ? (dx > 0 ? "to the left of" : "to the right of") : dy > 0 ? "above" : "below";
}
function phraseOf({ noun, color, size }, sized) {
  const words = [sized && size, color, noun].filter(Boolean);
  return `${"aeio".includes(words[0][0]) || words[0] === "umbrella" ? "an" : "a"} ${words.join(" ")}`;
}
const captionOf = (scene, sizes, sized) => `${phraseOf(scene.things[0], sized)} ${relationOf(scene, sizes)} ${phraseOf(scene.things[1], sized)}`;
function twinOf(scene, swap) {
  const things = scene.things.map((thing, k) => ({ ...thing, ...Object.fromEntries(SWAPS[swap].map((field) => [field, scene.things[1 - k][field]])) }));
  return { ...scene, things };
}
// What keeps a scene and its twin from being a case; "" if nothing does.
function problemOf(scene, swap, world) {
  const scenes = [scene, twinOf(scene, swap)], [a, b] = scene.things, captions = scenes.map((one) => captionOf(one, world.sizes, swap === "sizes"));
  if (a.noun === b.noun) return `both things are “${a.noun}”: choose two different ones`;
  for (const { noun, color } of scenes.flatMap((one) => one.things)) if (world.native[noun].includes(color)) return `“${noun}” is naturally ${color} in some style: choose another color`;
  if (captions[0] === captions[1]) return `swapping the ${swap} changes nothing: choose two different ${swap}`;
  for (const one of scenes) {
    if (distance(one.things, world.sizes) < HIDDEN) return "one thing hides the other: drag them apart";
    const back = one.things[1 - one.front];
    if (distance(one.things, world.sizes) < OVERLAP && back.size === "small") return `the ${back.noun} is behind, where a small thing would be hidden: make it big`;
  }
  return "";
}

// Return `draw(scene, canvas)`, and `ready`, a promise that resolves when all sprites are loaded.
function painter(world) {
  const load = (uri) => Object.assign(new Image(), { src: uri });
  const [sheets, grounds] = [world.styles, Object.entries(world.grounds)].map((uris) => Object.fromEntries(uris.map(([name, uri]) => [name, load(uri)])));
  const sprites = new Map(), cell = 64;
  function sprite(noun, style, color) {
    const key = [noun, style, color].join();
    if (!sprites.has(key)) {
      const canvas = h("canvas", { width: cell, height: cell }), context = canvas.getContext("2d");
      context.drawImage(sheets[style], cell * world.nouns.indexOf(noun), 0, cell, cell, 0, 0, cell, cell);
      if (color) recolor(context, world.colors[color]);
      sprites.set(key, canvas);
    }
    return sprites.get(key);
  }
  // Replace the hue and keep the shading, as `drawing(noun, style, color)` does in Python.
  function recolor(context, color) {
    const image = context.getImageData(0, 0, cell, cell), pixels = image.data, inside = [];
    const light = (at) => 0.299 * pixels[at] + 0.587 * pixels[at + 1] + 0.114 * pixels[at + 2];
    for (let at = 0; at < pixels.length; at += 4) if (pixels[at + 3] > 128) inside.push(light(at));
    inside.sort((a, b) => a - b);
    const percentile = (part) => inside[Math.round(part * (inside.length - 1))], high = percentile(0.96), contrast = Math.max(high - percentile(0.04), 90);
    for (let at = 0; at < pixels.length; at += 4) {
      const shade = 0.45 + 0.7 * Math.min(1, Math.max(0, 1 - (high - light(at)) / contrast));
      for (let k = 0; k < 3; k++) pixels[at + k] = color[k] * Math.min(shade, 1) + (255 - color[k]) * Math.max(0, shade - 1) * 2;
    }
    context.putImageData(image, 0, 0);
  }
  function draw({ things, front, ground, style, seed }, canvas) {
    const context = canvas.getContext("2d"), side = canvas.width, random = generator(seed);
    const looks = things.map(() => ({ scale: 0.95 + 0.1 * random(), tilt: (16 * random() - 8) * (Math.PI / 180), mirror: random() < 0.5 ? -1 : 1, aspect: 0.9 + 0.2 * random() }));
    context.drawImage(grounds[ground], 0, 0, side, side);
    for (const k of [1 - front, front]) {
      const thing = things[k], look = looks[thing.look], width = world.sizes[thing.size] * look.scale * side, height = width * look.aspect;
      const [x, y] = [thing.x, thing.y].map((at) => side * Math.min(1 - world.sizes[thing.size] / 2, Math.max(world.sizes[thing.size] / 2, at)));
      context.save();
      context.translate(x, y - height / 2 + 0.965 * width);
      context.scale(0.46 * width, 0.12 * width);
      const shadow = context.createRadialGradient(0, 0, 0.5, 0, 0, 1);
      shadow.addColorStop(0, "rgb(25 25 45 / .36)");
      shadow.addColorStop(1, "rgb(25 25 45 / 0)");
      context.fillStyle = shadow;
      context.fillRect(-1, -1, 2, 2);
      context.restore();
      context.save();
      context.translate(x, y);
      context.rotate(-look.tilt);
      context.scale(look.mirror, 1);
      context.drawImage(sprite(thing.noun, style, thing.color), -width / 2, -height / 2, width, height);
      context.restore();
    }
  }
  return { draw, sprite, ready: Promise.all([...Object.values(sheets), ...Object.values(grounds)].map((image) => image.decode())) };
}

function randomScene(world, style) {
  const any = (values) => values[Math.floor(values.length * Math.random())], jitter = (width) => width * (Math.random() - 0.5);
  const thing = (look) => {
    const noun = any(world.nouns), free = Object.keys(world.colors).filter((color) => !world.native[noun].includes(color));
    return { noun, color: Math.random() < 0.6 ? any(free) : null, size: any(Object.keys(world.sizes)), look };
  };
  for (;;) {
    const layout = any(["row", "row", "column", "column", "stack"]), [a, b] = [thing(0), thing(1)], swap = any(["positions", "positions", "colors", "objects"]);
    const at = layout === "stack" ? [0.4 + jitter(0.1), 0.6 + jitter(0.1)] : [0.26 + jitter(0.06), 0.74 + jitter(0.06)], other = [0.5 + jitter(0.24), 0.5 + jitter(0.24)];
    [a, b].forEach((one, k) => Object.assign(one, layout === "column" ? { x: other[k], y: at[k] } : { x: at[k], y: layout === "stack" ? at[k] : other[k] }));
    if (layout === "stack") a.size = b.size = "big";
    const scene = { things: Math.random() < 0.5 ? [a, b] : [{ ...b, look: 0 }, { ...a, look: 1 }], front: Math.random() < 0.5 ? 0 : 1, ground: any(Object.keys(world.grounds)), style, seed: Math.floor(1e6 * Math.random()) };
    if (!problemOf(scene, swap, world)) return { scene, swap };
  }
}

function composeTab({ state, results, ask, compared }) {
  const world = state.world, { sizes } = world, paint = painter(world), prefix = `vk-noun-${Math.random().toString(36).slice(2)}`;
  let scene = { things: [{ noun: "dog", color: "blue", size: "big", x: 0.27, y: 0.45, look: 0 }, { noun: "house", color: "purple", size: "big", x: 0.73, y: 0.55, look: 1 }], front: 0, ground: "grass", style: world.styles[0][0], seed: 1 };
  let swap = "positions", selected = 0, grids = null, notes = [], ticket = 0, timer, stale = false, looking = 0, opened = false;
  const canvases = [0, 1].map((k) => h("canvas", { width: world.side, height: world.side, role: "img" }));
  const handles = [0, 1].map((k) => h("button", { type: "button", class: "thing", onclick: () => choose(k), onfocus: () => choose(k), onkeydown: (event) => keys(event, k), onpointerdown: (event) => grab(event, k) }));
  const stage = h("div", { class: "stage" }, canvases[0], handles), twin = h("div", { class: "stage" }, canvases[1]);
  const captions = [0, 1].map(() => h("p", { class: "caption" })), message = h("p", { class: "message", role: "alert" }), status = h("p", { class: "soft", role: "status" });
  const models = h("div", { class: "models" }), readings = h("p", { class: "soft" }), chosen = h("b", {});
  const chip = (text, action, label) => h("button", { type: "button", class: "chip", "aria-label": label, onclick: action }, text);
  const menu = (label, options, action) => h("label", { class: "soft" }, `${label} `, h("select", { "aria-label": label, onchange: (event) => { action(event.target.value); changed(); } }, options.map((one) => h("option", { value: one }, one))));
  const grounds = menu("ground", Object.keys(world.grounds), (value) => (scene.ground = value)), styles = menu("style", world.styles.map(([name]) => name), (value) => (scene.style = value));
  const find = chip("find a scene that splits the models", toggleSearch);
  const swaps = Object.keys(SWAPS).map((name) => chip(name, () => { swap = name; if (name === "sizes" && scene.things[0].size === scene.things[1].size) scene.things[1].size = scene.things[0].size === "big" ? "small" : "big"; changed(); }, `twin: swap the ${name}`));
  const colors = [NATURAL, ...Object.keys(world.colors)].map((name) => h("button", { type: "button", class: "swatch", title: name, "aria-label": name, style: name === NATURAL ? null : `background: rgb(${world.colors[name]})`, onclick: () => { scene.things[selected].color = name === NATURAL ? null : name; changed(); } }, name === NATURAL ? "∅" : ""));
  const sizeChips = Object.keys(sizes).map((name) => chip(name, () => { scene.things[selected].size = name; changed(); }));
  const palette = h("div", { class: "palette", role: "listbox", tabindex: 0, "aria-label": "thing", onkeydown: pick }, world.nouns.map((noun, i) => h("span", { role: "option", id: `${prefix}-${i}`, title: noun, "aria-label": noun, onclick: () => setNoun(noun) }, h("canvas", { width: 64, height: 64 }))));
  const panel = h("div", { class: "compose" },
    h("div", { class: "bar" }, find, chip("shuffle details", () => { scene.seed = Math.floor(1e6 * Math.random()); changed(); }), grounds, styles, h("span", { class: "gap" }), status),
    h("div", { class: "two" },
      h("div", {}, h("div", { class: "images" }, h("div", {}, stage, captions[0]), h("div", {}, twin, captions[1])), message,
        h("p", { class: "soft" }, "drag a thing, or move it with the arrow keys"),
        h("div", { class: "row", role: "group", "aria-label": "twin" }, h("span", { class: "soft" }, "twin: swap the"), swaps),
        h("div", { class: "card" }, h("div", { class: "row" }, chosen, sizeChips, colors), palette)),
      h("div", {}, models, readings)));

  function choose(k) { if (selected !== k) { selected = k; update(); } }
  function setNoun(noun) {
    const thing = scene.things[selected];
    thing.noun = noun;
    if (world.native[noun].includes(thing.color)) thing.color = null;
    changed();
  }
  function pick(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -12, ArrowDown: 12 }[event.key], at = world.nouns.indexOf(scene.things[selected].noun) + by;
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    if (world.nouns[at]) setNoun(world.nouns[at]);
  }
  function move(k, x, y) {
    const thing = scene.things[k], half = sizes[thing.size] / 2;
    [thing.x, thing.y] = [x, y].map((at) => Math.min(1 - half, Math.max(half, at)));
    scene.front = k; // what was moved last is in front
    changed();
  }
  function keys(event, k) {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key], thing = scene.things[k];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    move(k, thing.x + 0.03 * by[0], thing.y + 0.03 * by[1]);
  }
  function grab(event, k) {
    const thing = scene.things[k], area = stage.getBoundingClientRect(), start = [event.clientX, event.clientY, thing.x, thing.y], handle = handles[k];
    choose(k);
    handle.setPointerCapture(event.pointerId);
    const drag = (to) => move(k, start[2] + (to.clientX - start[0]) / area.width, start[3] + (to.clientY - start[1]) / area.height);
    handle.addEventListener("pointermove", drag);
    handle.addEventListener("lostpointercapture", () => handle.removeEventListener("pointermove", drag), { once: true });
  }
  function toggleSearch() { looking ? (looking = 0) : search(); update(); }

  const captionsOf = (one, by) => [one, twinOf(one, by)].map((each) => captionOf(each, sizes, by === "sizes"));
  const request = (one, by, onto) => {
    [one, twinOf(one, by)].forEach((each, k) => paint.draw(each, onto[k]));
    return { do: "score", images: onto.map((canvas) => canvas.toDataURL("image/png")), captions: captionsOf(one, by) };
  };
  function changed() {
    const own = ++ticket;
    looking = 0;
    clearTimeout(timer);
    stale = true;
    status.textContent = "";
    if (!problemOf(scene, swap, world)) timer = setTimeout(() => score(own), DEBOUNCE);
    update();
  }
  async function score(own) {
    await paint.ready;
    const reply = await ask(request(scene, swap, canvases));
    if (own === ticket) show(reply);
  }
  function show(reply) {
    stale = false;
    grids = reply.scores || null;
    notes = reply.error ? [reply.error] : reply.notes;
    update();
  }
  // Draw random scenes until the models before and after disagree on one.
  async function search() {
    const offscreen = [0, 1].map(() => h("canvas", { width: world.side, height: world.side })), own = (looking = ++ticket);
    clearTimeout(timer);
    await paint.ready;
    for (let tried = 1; tried <= TRIES; tried++) {
      const found = randomScene(world, scene.style), reply = await ask(request(found.scene, found.swap, offscreen));
      if (own !== looking) return;
      if (reply.error) { show(reply); break; }
      const [before, after] = compared(), chosen = before === after ? state.models.keys() : [before, after];
      const right = [...chosen].filter((m) => reply.scores[m]).map((m) => [state.models[m], isRight(reply.scores[m])]);
      const yes = right.filter((one) => one[1]), no = right.filter((one) => !one[1]), names = (list) => list.map((one) => one[0]).join(" and ");
      status.textContent = `scene ${tried} of ${TRIES} …`;
      if (yes.length && no.length) {
        ({ scene, swap } = found);
        status.textContent = `scene ${tried} splits them: ${names(yes)} right, ${names(no)} wrong`;
        looking = 0;
        return show(reply);
      }
    }
    looking = 0;
    if (!notes.length) status.textContent = `the models agree on all ${TRIES} scenes; try again`;
    update();
  }
  function update() {
    const twinScene = twinOf(scene, swap), texts = captionsOf(scene, swap), problem = problemOf(scene, swap, world), thing = scene.things[selected];
    paint.ready.then(() => [scene, twinScene].forEach((one, k) => paint.draw(one, canvases[k])));
    wordDiff(...texts).forEach((words, k) => { captions[k].replaceChildren(h("b", {}, `${k + 1}. `), ...markedWords(words)); canvases[k].setAttribute("aria-label", `image ${k + 1}: ${texts[k]}`); });
    scene.things.forEach((one, k) => {
      const side = sizes[one.size];
      handles[k].style.cssText = `left: ${100 * (one.x - side / 2)}%; top: ${100 * (one.y - side / 2)}%; width: ${100 * side}%; z-index: ${k === scene.front ? 2 : 1}`;
      handles[k].setAttribute("aria-pressed", String(k === selected));
      handles[k].setAttribute("aria-label", `${phraseOf(one, true)}, ${Math.round(100 * one.x)} % from the left, ${Math.round(100 * one.y)} % from the top`);
    });
    chosen.textContent = `${phraseOf(thing, true)}: `;
    const press = (nodes, is) => nodes.forEach((node) => node.setAttribute("aria-pressed", String(is(node))));
    press(swaps, (node) => node.textContent === swap);
    press(sizeChips, (node) => node.textContent === thing.size);
    press(colors, (node) => node.title === (thing.color || NATURAL));
    colors.forEach((node) => (node.disabled = world.native[thing.noun].includes(node.title)));
    [...palette.children].forEach((node) => node.setAttribute("aria-selected", String(node.title === thing.noun)));
    palette.setAttribute("aria-activedescendant", `${prefix}-${world.nouns.indexOf(thing.noun)}`);
    grounds.lastChild.value = scene.ground;
    styles.lastChild.value = scene.style;
    find.textContent = looking ? "stop" : "find a scene that splits the models";
    message.textContent = [problem, ...notes].filter(Boolean).join(" ");
    const [rows, largest] = modelRows(state.models, grids || []);
    models.replaceChildren(...rows);
    models.classList.toggle("stale", stale || Boolean(looking));
    models.setAttribute("aria-busy", stale || Boolean(looking));
    readings.replaceChildren(...(grids ? [...new Set(compared())].filter((m) => grids[m]).flatMap((m) => [h("b", {}, state.models[m]), `: ${reading(grids[m])}. `]) : []), grids ? `Bars: difference of cosines, up to ±${largest.toFixed(2)}.` : "");
    drawPalette();
  }
  let drawn = "";
  async function drawPalette() {
    if (drawn === scene.style) return;
    const style = (drawn = scene.style);
    await paint.ready;
    [...palette.children].forEach((node, i) => { const context = node.firstChild.getContext("2d"); context.clearRect(0, 0, 64, 64); context.drawImage(paint.sprite(world.nouns[i], style, null), 0, 0); });
  }
  function open() {
    opened ? update() : changed();
    opened = true;
  }
  return { panel, update, open };
}
