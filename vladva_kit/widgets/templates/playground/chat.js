// Ask an LVLM about an image: the same weights answer with the adapter on and off, each from its own answers so far.
function chatTab({ state, ask, compared }) {
  let turns = [], error = "", unseen = []; // {question, answers: [on, off]}; an answer is null while it is generated
  let chat = 0; // changes with a new chat, so that late answers are dropped
  const picker = imagePicker(state, "image to ask about", restart, (text) => { error = text; update(); });
  const image = h("img", { class: "plain", alt: "the image asked about" }), heads = h("div", { class: "turn soft" }), log = h("div", { class: "log", role: "log", "aria-label": "chat" });
  const input = h("input", { type: "text", "aria-label": "question", placeholder: "ask about the image, Enter sends", spellcheck: "false", onkeydown: (event) => { event.stopPropagation(); if (event.key === "Enter" && !event.isComposing) send(input.value); } });
  const message = h("p", { class: "message", role: "alert" }), hint = h("p", { class: "soft" });
  const send_ = h("button", { type: "button", class: "chip", onclick: () => send(input.value) }, "ask"), clear = h("button", { type: "button", class: "chip", onclick: restart }, "new chat");
  const examples = h("div", { class: "row" });
  const panel = h("div", { class: "chat" }, picker.node, h("div", { class: "two" }, h("div", {}, image), h("div", {}, heads, log, h("div", { class: "asking" }, input, send_, clear), message, hint, examples)));

  // Questions about the things that the image's caption names; otherwise general ones. Each starts a new chat.
  function drawExamples() {
    const caption = state.pairs.find((pair) => pair.image === picker.image)?.caption || state.cases.map((one) => one.captions[one.images.indexOf(picker.image)]).find(Boolean) || "";
    const [first, second = first] = caption.split(/\W+/).filter((word) => state.world.nouns.includes(word));
    const questions = first ? [state.questions[0], `what color is the ${first}?`, `where is the ${second}?`, `is there ${phraseOf({ noun: second })}?`, "is there a rainbow?"] : state.questions;
    examples.replaceChildren(h("span", { class: "soft" }, "try:"), ...questions.map((text) => h("button", { type: "button", class: "chip", title: "starts a new chat", onclick: () => { restart(); send(text); } }, text)));
  }
  // The model after, or the last LVLM; null if there is none.
  function answering() {
    const after = compared()[1];
    return state.lvlms[after] ? after : state.lvlms.includes(true) ? state.lvlms.lastIndexOf(true) : null;
  }
  const states = () => (state.adapters[answering()] ? [true, false] : [false]);
  function restart() {
    chat++;
    turns = [];
    error = "";
    unseen = [];
    update();
  }
  async function send(text) {
    const model = answering(), own = chat, busy = turns.some((turn) => turn.answers.includes(null));
    error = model === null ? "no LVLM on this page: a CLIP cannot answer" : !text.trim() ? "the question is empty: type some words" : busy ? "wait for the answer" : "";
    if (error) return update();
    const before = turns, turn = { question: text, model, answers: states().map(() => null) };
    turns = [...turns, turn];
    input.value = "";
    update();
    for (const [k, adapter] of states().entries()) {
      const history = before.map((one) => [one.question, one.answers[k]]);
      const reply = await ask({ do: "chat", model, adapter, image: picker.image, question: text, turns: history });
      if (own !== chat) return;
      if (reply.error) {
        error = reply.error;
        turns = before;
        input.value ||= text;
        return update();
      }
      turn.answers[k] = reply.answer;
      unseen = reply.unseen;
      update();
    }
  }
  let drawn = null; // the image that the examples are about
  let last = null; // the model and its states that the chat is with
  function update() {
    const model = answering(), now = `${model}`;
    if (last !== null && last !== now && turns.length) { last = now; return restart(); }
    last = now;
    image.src = picker.source();
    if (drawn !== picker.image) drawExamples();
    drawn = picker.image;
    heads.style.setProperty("--n", states().length);
    heads.replaceChildren(...(model === null ? [] : states().map((adapter) => h("span", {}, h("b", {}, adapter ? "adapter on" : state.adapters[model] ? "adapter off" : state.models[model]), state.adapters[model] ? (adapter ? `: ${state.models[model]}` : ": the LVLM as it was") : ""))));
    log.replaceChildren(...(turns.length ? turns.flatMap((turn) => [h("p", { class: "bubble question" }, turn.question), h("div", { class: "turn", style: `--n: ${turn.answers.length}` }, turn.answers.map((answer, k) => h("p", { class: "bubble", "aria-label": `${turn.answers.length > 1 ? (k ? "adapter off" : "adapter on") : "answer"}: ${answer ?? "…"}` }, answer === null ? "…" : answer || "(no words)")))]) : [h("p", { class: "soft" }, "Ask a question, or take one of these examples.")]));
    log.scrollTop = log.scrollHeight;
    message.textContent = error;
    input.setAttribute("aria-invalid", String(Boolean(error)));
    hint.textContent = unseen.length ? `Not in the LVLM’s vocabulary: ${unseen.join(", ")}. It reads each as the same unknown word.` : "";
  }
  picker.choose(picker.image);
  return { panel, update };
}
