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

// Winoground's four comparisons of a grid [image][caption], or SugarCrepe's one of an image with a true and a false
// caption; all have to be positive.
const marginsOf = (grid) => grid.length === 1 ? [[grid[0][0] - grid[0][1]], []] : [
  [grid[0][0] - grid[0][1], grid[1][1] - grid[1][0]], // each image prefers its caption
  [grid[0][0] - grid[1][0], grid[1][1] - grid[0][1]], // each caption prefers its image
];
const isRight = (grid) => marginsOf(grid).flat().every((margin) => margin > 0);
const kindOf = (before, after) => (before ? (after ? "right" : "broken") : after ? "fixed" : "wrong");

function reading(grid) {
  if (grid.length === 1) return `the image prefers the ${isRight(grid) ? "true" : "false"} caption`;
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

const unpack = (text) => text && new Float32Array(Uint8Array.from(atob(text), (char) => char.charCodeAt(0)).buffer);
