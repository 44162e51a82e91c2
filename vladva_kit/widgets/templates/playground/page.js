function render({ model, el }) {
  const state = model.get("state"), names = state.models, id = `vk-${Math.random().toString(36).slice(2)}`;
  const results = { scores: { ...state.scores }, matrices: state.matrices ? state.matrices.map(unpack) : null, notes: [], galleryNotes: [] };
  const slow = h("p", { class: "message", role: "status" });
  const { ask, close } = connect(model, (isSlow) => (slow.textContent = isSlow ? SLOW_PYTHON : ""));
  let compare = [0, names.length - 1], open = 0;
  const shared = { model, state, results, ask, compared: () => compare };
  const has = (name) => state.tabs.includes(name), search = has("search") || has("matrix") ? searchTab(shared) : null;
  const make = { probe: probeTab, compose: composeTab, search: () => search, matrix: () => matrixTab({ ...shared, encodeAll: search.encodeAll }), map: mapTab, attention: attentionTab, chat: chatTab };
  const opened = Object.fromEntries(state.tabs.map((name) => [name, make[name](shared)]));
  const tabs = Object.entries(opened).map(([name, tab]) => [name[0].toUpperCase() + name.slice(1), tab]);
  const buttons = tabs.map(([name], at) => h("button", { type: "button", role: "tab", id: `${id}-tab-${at}`, "aria-controls": `${id}-panel-${at}`, onclick: () => show(at) }, name));
  const panels = tabs.map(([, tab], at) => h("div", { role: tabs.length > 1 ? "tabpanel" : "region", id: `${id}-panel-${at}`, "aria-labelledby": `${id}-tab-${at}` }, tab.panel));
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
  el.append(h("div", { class: "vk-play" }, h("div", { class: "tabs" }, tabs.length > 1 ? tablist : h("b", { id: `${id}-tab-0` }, tabs[0][0]), h("span", { class: "gap" }), names.length > 1 ? [choice("before", 0), choice("after", 1)] : null), slow, panels));
  show(0);
  if (model.send && opened.probe) opened.probe.scoreAll();
  return () => { close(); opened.map?.close(); };
}

export default { render };
