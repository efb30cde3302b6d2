// The explorer's board: its panels and tabs, what is drawn in them, and what a person does there.
//
// The kernel says by traits what to draw: `set_<view>` (rows), `signals`, `said` (a note and a
// text for those who do not see the chart); `awaited` are the sets of the same answer that are
// yet to come. What a person does goes back as { ask: { … } }, a part of the explorer's state.
// While one is under way the newest waits, so nothing queues up. { drawn: true } tells that all
// is on the page.

// How long the kernel may be silent before a person is told, in ms.
const PATIENCE = 3000;

const BUSY = "Waiting for the kernel: it is busy, or gone. The newest choice is kept.";
const GONE = "The kernel that answered is gone. Run the cell again to explore on.";

// What drawing.js has made, by its version.
const DRAWINGS = (globalThis[Symbol.for("vidlab.drawings")] ??= new Map());

async function drawingOf(library) {
  const version = library.get("version");
  if (!DRAWINGS.has(version)) DRAWINGS.set(version, Promise.withResolvers());
  return DRAWINGS.get(version).promise;
}

class Board {
  constructor(model, root, library, drawing) {
    Object.assign(this, { model, root, library, ...drawing });
    this.views = {};
    this.closing = new AbortController();
    this.build();
    this.listen();
    this.tellTime();
    this.draw();
  }

  close() {
    this.closing.abort();
    this.themes.disconnect();
    clearTimeout(this.timer);
    for (const view of Object.values(this.views)) view.close();
  }

  build() {
    this.status = this.element("p", { role: "status", "aria-live": "polite", class: "vidlab-status" });
    const copy = this.element("button", { type: "button", class: "vidlab-copy" }, "Copy state");
    copy.title = "Copy what is chosen, as JSON for vl.explore(run, state=…)";
    copy.addEventListener("click", () => this.copy());
    this.panels = this.model.get("panels").map((panel, number) => this.panel(panel, number));
    this.root.classList.add("vidlab-board");
    this.root.replaceChildren(
      this.element("div", { class: "vidlab-line" }, this.status, copy),
      this.element("div", { class: "vidlab-panels" }, ...this.panels));
    this.open();
  }

  panel({ label, tabs }, number) {
    const made = this.element("section", { class: "vidlab-panel", "aria-label": label });
    const bodies = tabs.map(({ views }) => this.element("div", {}, ...views.map((v) => this.place(v))));
    if (tabs.length > 1) {
      const id = (tab) => `vidlab-${this.model.get("name")}-${number}-${tab}`;
      const list = this.element("div", { role: "tablist", "aria-label": label });
      tabs.forEach(({ title }, tab) => {
        const button = this.element("button", { type: "button", role: "tab", id: id(tab) }, title);
        button.setAttribute("aria-controls", `${id(tab)}-body`);
        button.addEventListener("click", () => this.choose(number, tab));
        list.append(button);
        const body = { role: "tabpanel", id: `${id(tab)}-body`, "aria-labelledby": id(tab) };
        for (const [name, value] of Object.entries(body)) bodies[tab].setAttribute(name, value);
      });
      list.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const next = (this.model.get("tabs")[number] + step + tabs.length) % tabs.length;
        this.choose(number, next);
        list.children[next].focus();
        event.preventDefault();
        event.stopPropagation();
      });
      made.append(list);
    }
    made.append(...bodies);
    return made;
  }

  place(name) {
    const place = this.element("div", { class: "vidlab-place" });
    const note = this.element("p", { class: "vidlab-note" });
    const caption = this.element("figcaption", {}, this.model.get("titles")[name]);
    const alt = this.element("p", { class: "vidlab-alt" });
    const figure = this.element("figure", { "data-view": name }, caption, note, place, alt);
    const View = name in this.model.get("tables") ? this.Table : this.Chart;
    this.views[name] = new View(this, name, place);
    Object.assign(this.views[name], { figure, note, alt });
    return figure;
  }

  listen() {
    const { model } = this;
    const redraw = () => this.draw();
    for (const set of Object.values(model.get("sets")).flat()) {
      model.on(`change:set_${set}`, () => {
        for (const view of Object.values(this.views)) {
          if (view.sets.includes(set)) view.stale.add(set);
        }
      });
    }
    model.on("change", redraw);
    model.on("change:tabs", () => this.open());
    model.on("change:notice", () => this.tellTime());
    model.on("msg:custom", (message) => this.answered(message.answered));
    const { library, closing: { signal } } = this;
    const look = () => {
      this.gone = !library.comm_live;
      this.tellTime();
    };
    library.on("comm_live_update", look);
    signal.addEventListener("abort", () => library.off("comm_live_update", look));
    matchMedia("(prefers-color-scheme: dark)").addEventListener(
      "change", () => this.retheme(), { signal });
    this.themes = new MutationObserver(() => this.retheme());
    this.themes.observe(document.body, { attributeFilter: ["data-jp-theme-light"] });
    this.look = this.charts.look;
  }

  // Draws what is seen and has changed; what comes meanwhile is drawn after it.
  async draw() {
    if (this.drawing) {
      this.more = true;
      return;
    }
    this.drawing = true;
    try {
      do {
        this.more = false;
        const [number, state] = ["number", "state"].map((name) => this.model.get(name));
        await Promise.all(this.visible().map((name) => this.show(name)));
        if (this.number !== number) this.drawn(number, state);
      } while (this.more && !this.closing.signal.aborted);
    } finally {
      this.drawing = false;
    }
    this.label();
  }

  // All of an answer is on the page, and the kernel may turn to what is likely to be asked next.
  drawn(number, state) {
    this.number = number;
    Object.assign(this.root.dataset, { drawn: number, state });
    if (!this.gone) this.model.send({ drawn: true });
  }

  async show(name) {
    const view = this.views[name];
    const awaited = this.model.get("awaited");
    if (view.sets.some((set) => awaited.includes(set))) return;
    const { note = "", alt = "" } = this.model.get("said")[name] ?? {};
    const empty = !this.model.get(`set_${view.sets[0]}`)?.rows;
    view.note.textContent = note;
    view.alt.textContent = alt;
    view.place.hidden = empty;
    view.figure.dataset.empty = empty;
    view.figure.hidden = empty && !note;
    if (empty) return;
    try {
      await view.update();
    } catch (error) {
      if (this.closing.signal.aborted) return;
      view.note.textContent = `This view could not be drawn: ${error.message}`;
    }
  }

  visible() {
    const open = this.model.get("tabs");
    return this.model.get("panels").flatMap(({ tabs }, number) => tabs[open[number]].views);
  }

  open() {
    const open = this.model.get("tabs");
    this.panels.forEach((panel, number) => {
      const list = panel.querySelector("[role=tablist]");
      const bodies = [...panel.children].filter((child) => child !== list);
      bodies.forEach((body, tab) => (body.hidden = tab !== open[number]));
      for (const [tab, button] of [...(list?.children ?? [])].entries()) {
        button.setAttribute("aria-selected", tab === open[number]);
        button.tabIndex = tab === open[number] ? 0 : -1;
      }
    });
  }

  choose(panel, tab) {
    if (this.gone) return;
    const open = [...this.model.get("tabs")];
    open[panel] = tab;
    this.model.set("tabs", open);
    this.model.save_changes();
  }

  retheme() {
    if (this.look === this.charts.look) return;
    this.look = this.charts.look;
    for (const view of Object.values(this.views)) view.forget();
    this.draw();
  }

  // Choosing what is chosen already takes the choice back, unless it is to stay.
  pick(name, value, stay = false) {
    const chosen = this.model.get("signals")[name];
    this.ask({ [name]: chosen === value && !stay ? null : value });
  }

  ask(change) {
    this.waiting = { ...this.waiting, ...change };
    if (!this.underWay) this.send();
  }

  send() {
    this.underWay = this.waiting;
    this.waiting = undefined;
    if (!this.underWay || this.gone) return;
    this.model.send({ ask: this.underWay });
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.late = true;
      this.tellTime();
    }, PATIENCE);
  }

  answered(is) {
    if (!is) return;
    clearTimeout(this.timer);
    this.late = false;
    this.tellTime();
    this.send();
  }

  tellTime() {
    const text = this.gone ? GONE : this.late ? BUSY : this.model.get("notice");
    if (this.status.textContent !== text) this.status.textContent = text;
    this.root.dataset.gone = Boolean(this.gone);
  }

  async copy() {
    const text = this.model.get("state");
    try {
      await navigator.clipboard.writeText(text);
      this.status.textContent = "The state is on the clipboard.";
    } catch {
      this.status.textContent = text;
    }
  }

  // The handles of ipywidgets' sliders have no names of their own.
  label() {
    const all = this.root.closest(".vidlab-explorer")?.querySelectorAll(".widget-slider") ?? [];
    for (const slider of all) {
      const text = slider.querySelector(".widget-label")?.textContent ?? "";
      const handles = [...slider.querySelectorAll(".noUi-handle")];
      handles.forEach((handle, number) => {
        const side = handles.length > 1 ? [", from", ", to"][number] : "";
        handle.setAttribute("aria-label", text + side);
      });
    }
  }
}

export default {
  render({ model, el }) {
    let board;
    const closing = new AbortController();
    (async () => {
      const id = model.get("library").replace("IPY_MODEL_", "");
      const library = await model.widget_manager.get_model(id);
      const drawing = await drawingOf(library);
      if (!closing.signal.aborted) board = new Board(model, el, library, drawing);
    })().catch((error) => {
      el.textContent = `The explorer could not be drawn: ${error.message}. Run the cell again.`;
    });
    return () => {
      closing.abort();
      board?.close();
    };
  },
};
