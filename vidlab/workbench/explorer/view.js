// The explorer's drawing: charts that are compiled once and are then only given rows and signals.
//
// The kernel says by traits what to draw: `set_<view>` (rows), `signals`, `said` (a note and a
// text for those who do not see the chart). What a person does goes back as { ask: { … } }, a
// part of the explorer's state. While one is under way the newest waits, so nothing queues up.

// How long the kernel may be silent before a person is told, in ms.
const PATIENCE = 3000;

const BUSY = "Waiting for the kernel: it is busy, or gone. The newest choice is kept.";
const GONE = "The kernel that answered is gone. Run the cell again to explore on.";

// Vega, once a page, whatever the number of explorers on it.
const LIBRARIES = (globalThis[Symbol.for("vidlab.vega")] ??= new Map());

function libraryModel(model) {
  return model.widget_manager.get_model(model.get("library").replace("IPY_MODEL_", ""));
}

function vega(library) {
  const version = library.get("version");
  if (!LIBRARIES.has(version)) {
    const url = URL.createObjectURL(new Blob([library.get("code")], { type: "text/javascript" }));
    LIBRARIES.set(version, import(url).finally(() => URL.revokeObjectURL(url)));
  }
  return LIBRARIES.get(version);
}

function isDark() {
  const light = document.body.dataset.jpThemeLight;
  return light ? light === "false" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// The rows of a data set: numbers come as bytes, texts as their distinct values and bytes.
function rowsOf(set) {
  const names = Object.keys(set?.columns ?? {});
  const columns = names.map((name) => {
    const { numbers, values, codes } = set.columns[name];
    const bytes = numbers ?? codes;
    const own = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
    if (numbers) return new Float64Array(own);
    return Array.from(new Int32Array(own), (code) => (code < 0 ? null : values[code]));
  });
  const rows = new Array(set?.rows ?? 0);
  for (let row = 0; row < rows.length; row++) {
    const made = (rows[row] = {});
    for (let column = 0; column < names.length; column++) made[names[column]] = columns[column][row];
  }
  return rows;
}

// A brush is no more exact than its pixels.
function rounded(value) {
  return Number(value.toPrecision(6));
}

class Chart {
  constructor(board, name, spec, place) {
    Object.assign(this, { board, name, spec, place, meta: spec.usermeta ?? {} });
    this.sets = board.model.get("sets")[name];
    this.stale = new Set(this.sets);
    this.resize = new ResizeObserver(() => this.fit());
    this.resize.observe(place);
    if (this.meta.brush) {
      place.addEventListener("pointerdown", () => (this.dragging = true));
      this.release = () => this.dragging && setTimeout(() => this.brushEnds());
      addEventListener("pointerup", this.release);
    }
  }

  close() {
    this.resize.disconnect();
    if (this.release) removeEventListener("pointerup", this.release);
    this.forget();
  }

  forget() {
    this.result?.finalize();
    this.result = this.view = undefined;
    this.stale = new Set(this.sets);
  }

  async embed() {
    const { vegaEmbed } = await vega(await this.board.library);
    const dark = isDark();
    const rows = Object.fromEntries(this.sets.map((set) => [set, this.rows(set)]));
    const signals = this.board.model.get("signals");
    this.fitted = this.width();
    const spec = {
      ...this.spec,
      width: this.fitted,
      datasets: { ...this.spec.datasets, ...rows },
      params: this.spec.params.map(
        (param) => (param.name in signals ? { ...param, value: signals[param.name] } : param)),
    };
    this.result = await vegaEmbed(this.place, spec, {
      actions: false,
      logLevel: 1, // errors alone: a set of worst frames may well be empty
      renderer: "canvas",
      config: this.board.model.get("looks")[dark ? "dark" : "light"],
      tooltip: { theme: dark ? "dark" : "light" },
    });
    const view = (this.view = this.place.view = this.result.view);
    this.signals = new Set((this.result.vgSpec.signals ?? []).map((signal) => signal.name));
    if (this.meta.brush) view.addSignalListener("brush", (_, value) => this.brushMoves(value));
    if (this.meta.pick) view.addEventListener("click", (_, item) => this.pick(item?.datum));
  }

  async update() {
    if (!this.stale.size && this.seen === this.board.model.get("signals")) return;
    if (!this.view) await this.embed();
    const { model } = this.board;
    for (const set of this.stale) {
      const rows = this.rows(set);
      if (set === this.sets[0]) this.count(rows);
      this.view.data(set, rows);
    }
    this.stale.clear();
    this.seen = model.get("signals");
    for (const [name, value] of Object.entries(this.seen)) {
      if (this.signals.has(name)) this.view.signal(name, value);
    }
    await this.view.runAsync();
    requestAnimationFrame(() => this.fit()); // it may have been compiled while nothing had a width
    await this.showBrush();
    this.place.setAttribute("aria-label", model.get("said")[this.name]?.alt ?? "");
  }

  rows(set) {
    return rowsOf(this.board.model.get(`set_${set}`));
  }

  // A chart whose values take a row each is as high as they need.
  count(rows) {
    const { column, height } = this.meta.rows ?? {};
    if (!height) return;
    const values = new Set(rows.map((row, number) => row[column] ?? number));
    this.view.height(values.size * height + 56);
  }

  width() {
    return Math.max(this.place.clientWidth, 200);
  }

  async fit() {
    if (!this.view || !this.place.clientWidth || this.fitted === this.width()) return;
    this.fitted = this.width();
    await this.view.width(this.fitted).runAsync();
    await this.showBrush();
  }

  pick(datum) {
    if (!datum || Object.keys(this.brush ?? {}).length) return; // the end of a brush is no click
    for (const [column, name] of Object.entries(this.meta.pick)) {
      if (datum[column] !== undefined) this.board.pick(name, datum[column]);
    }
  }

  // Where a brush stays, it filters while it moves; elsewhere it looks closer when it is let go.
  get stays() {
    return this.name === "overview";
  }

  brushMoves(value) {
    if (!this.dragging) return;
    this.brush = value;
    if (this.stays) this.tell(value);
  }

  brushEnds() {
    this.dragging = false;
    const value = this.brush;
    this.brush = undefined;
    if (value === undefined) return;
    this.tell(value);
    if (this.stays) return;
    for (const name of ["brush_x", "brush_y"]) {
      if (this.signals.has(name)) this.view.signal(name, [0, 0]);
    }
    this.view.runAsync();
  }

  tell(value) {
    const change = {};
    for (const [column, name] of Object.entries(this.meta.brush)) {
      if (value[column]) change[name] = value[column].map(rounded).sort((a, b) => a - b);
      else if (this.stays) change[name] = null;
    }
    if (Object.keys(change).length) this.board.ask(change);
  }

  // The brush that stays shows the time that is chosen, whoever chose it.
  async showBrush() {
    if (!this.stays || this.dragging) return;
    const chosen = this.seen.time_s;
    const scale = this.view.scale("x");
    const wanted = chosen ? chosen.map((second) => scale(second)) : [0, 0];
    const shown = this.view.signal("brush_x");
    if (wanted.every((edge, side) => Math.abs(edge - (shown[side] ?? 0)) < 0.5)) return;
    await this.view.signal("brush_x", wanted).runAsync();
  }
}

class Table {
  constructor(board, name, columns, place) {
    Object.assign(this, { board, name, columns, place });
    this.sets = board.model.get("sets")[name];
    this.stale = new Set(this.sets);
  }

  close() {}

  forget() {
    this.stale = new Set(this.sets);
  }

  async update() {
    const { model } = this.board;
    const signals = model.get("signals");
    if (!this.stale.size && this.seen === signals) return;
    this.stale.clear();
    this.seen = signals;
    const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
    const say = (value) => (typeof value === "number" ? number.format(value) : (value ?? "–"));
    const head = this.columns.map(({ title }) => element("th", { scope: "col" }, title));
    const body = rowsOf(model.get(`set_${this.name}`)).map((row) =>
      element("tr", {}, ...this.columns.map(({ column, pick }) => {
        if (!pick) return element("td", {}, say(row[column]));
        const chosen = row[column] === signals[pick];
        const button = element("button", { type: "button", "aria-pressed": chosen }, row[column]);
        button.title = `look at ${pick} ${row[column]}`;
        button.addEventListener("click", () => this.board.pick(pick, row[column], true));
        return element("td", {}, button);
      })));
    const focused = this.place.contains(document.activeElement) && document.activeElement;
    this.place.replaceChildren(
      element("table", { "aria-label": model.get("titles")[this.name] },
        element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body)));
    if (focused) {
      const again = [...this.place.querySelectorAll("button")];
      again.find((button) => button.textContent === focused.textContent)?.focus();
    }
  }
}

class Board {
  constructor(model, root) {
    this.model = model;
    this.root = root;
    this.library = libraryModel(model);
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
    this.status = element("p", { role: "status", "aria-live": "polite", class: "vidlab-status" });
    const copy = element("button", { type: "button", class: "vidlab-copy" }, "Copy state");
    copy.title = "Copy what is chosen, as JSON for vl.explore(run, state=…)";
    copy.addEventListener("click", () => this.copy());
    this.panels = this.model.get("panels").map((panel, number) => this.panel(panel, number));
    this.root.classList.add("vidlab-board");
    this.root.replaceChildren(
      element("div", { class: "vidlab-line" }, this.status, copy),
      element("div", { class: "vidlab-panels" }, ...this.panels));
    this.open();
  }

  panel({ label, tabs }, number) {
    const made = element("section", { class: "vidlab-panel", "aria-label": label });
    const bodies = tabs.map(({ views }) => element("div", {}, ...views.map((v) => this.place(v))));
    if (tabs.length > 1) {
      const id = (tab) => `vidlab-${this.model.get("name")}-${number}-${tab}`;
      const list = element("div", { role: "tablist", "aria-label": label });
      tabs.forEach(({ title }, tab) => {
        const button = element("button", { type: "button", role: "tab", id: id(tab) }, title);
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
    const place = element("div", { class: "vidlab-place" });
    const note = element("p", { class: "vidlab-note" });
    const caption = element("figcaption", {}, this.model.get("titles")[name]);
    const alt = element("p", { class: "vidlab-alt" });
    const figure = element("figure", { "data-view": name }, caption, note, place, alt);
    const columns = this.model.get("tables")[name];
    const spec = this.model.get("specs")[name];
    this.views[name] = columns
      ? new Table(this, name, columns, place)
      : new Chart(this, name, spec, place);
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
    model.on("change:specs", () => this.again());
    model.on("change:notice", () => this.tellTime());
    model.on("msg:custom", (message) => this.answered(message.answered));
    this.library.then((library) => {
      const look = () => {
        this.gone = !library.comm_live;
        this.tellTime();
      };
      library.on("comm_live_update", look);
      this.closing.signal.addEventListener("abort", () => library.off("comm_live_update", look));
    });
    const { signal } = this.closing;
    matchMedia("(prefers-color-scheme: dark)").addEventListener(
      "change", () => this.retheme(), { signal });
    this.themes = new MutationObserver(() => this.retheme());
    this.themes.observe(document.body, { attributeFilter: ["data-jp-theme-light"] });
    this.dark = isDark();
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
        const [drawn, state] = ["number", "state"].map((name) => this.model.get(name));
        await Promise.all(this.visible().map((name) => this.show(name)));
        Object.assign(this.root.dataset, { drawn, state });
      } while (this.more && !this.closing.signal.aborted);
    } finally {
      this.drawing = false;
    }
    this.label();
  }

  async show(name) {
    const view = this.views[name];
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

  // All is compiled anew: another theme, or other charts.
  again() {
    for (const view of Object.values(this.views)) view.forget();
    this.draw();
  }

  retheme() {
    if (this.dark === isDark()) return;
    this.dark = isDark();
    this.again();
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
    const board = new Board(model, el);
    return () => board.close();
  },
};
