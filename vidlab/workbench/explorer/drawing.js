// The explorer's charts and tables: made once on a page, then only given rows and signals.
//
// The kernel sends this with Vega and the charts' specifications before it reads a run: the page
// makes ready what it can meanwhile. view.js waits for it in `DRAWINGS`.

const DRAWINGS = (globalThis[Symbol.for("vidlab.drawings")] ??= new Map());

export default {
  initialize({ model }) {
    const version = model.get("version");
    if (!DRAWINGS.has(version)) DRAWINGS.set(version, Promise.withResolvers());
    const drawing = DRAWINGS.get(version);
    if (drawing.begun) return;
    drawing.begun = true;
    const url = URL.createObjectURL(new Blob([model.get("code")], { type: "text/javascript" }));
    import(url)
      .then(({ vegaEmbed }) => {
        const charts = new Charts(vegaEmbed, model.get("charts"));
        drawing.resolve({ Chart, Table, charts, element });
        return charts.prepare();
      })
      .catch(drawing.reject)
      .finally(() => URL.revokeObjectURL(url));
  },
};

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

// The charts of both looks, light and dark.
class Charts {
  constructor(vegaEmbed, looks) {
    Object.assign(this, { vegaEmbed, looks });
  }

  get look() {
    return isDark() ? "dark" : "light";
  }

  spec(name) {
    return this.looks[this.look][name];
  }

  // Once drawn, a chart is drawn faster: by then the browser has compiled what draws it.
  async prepare() {
    for (const name of Object.keys(this.looks.light)) {
      if (this.wanted) return;
      (await this.embed(element("div"), name, {}, {})).finalize();
    }
  }

  embed(place, name, rows, { width = 300, height = 100, ...signals }) {
    const spec = this.spec(name);
    const data = spec.data.map(
      (set) => (set.name in rows ? { ...set, values: rows[set.name] } : set));
    const valued = spec.signals.map(
      (signal) => (signal.name in signals ? { ...signal, value: signals[signal.name] } : signal));
    const formatTooltip = (value, clean) => tipOf(place.view, spec, value, clean);
    const made = this.vegaEmbed(place, { ...spec, data, signals: valued, width, height }, {
      mode: "vega",
      actions: false,
      hover: false,
      logLevel: 1, // errors alone: a set of worst frames may well be empty
      renderer: "canvas",
      tooltip: { theme: this.look, formatTooltip },
    });
    return made.then(({ view }) => (place.view = view));
  }
}

// What a mark's tooltip says, as HTML: its expression is Vega's, which is JavaScript but for these
// functions.
function tipOf(view, { usermeta }, { datum, tip }, clean) {
  const { format } = view.locale();
  const functions = {
    format: (value, how) => (value === null ? "–" : format(how)(value)),
    isArray: Array.isArray,
    isValid: (value) => value !== null && value !== undefined && !Number.isNaN(value),
    join: (values, by) => values.join(by),
  };
  const say = new Function("datum", ...Object.keys(functions), `return ${usermeta.tips[tip]}`);
  const rows = Object.entries(say(datum, ...Object.values(functions)));
  const cell = (name, text) => `<td class="${name}">${clean(String(text))}</td>`;
  const row = ([key, value]) => `<tr>${cell("key", key)}${cell("value", value)}</tr>`;
  return `<table>${rows.map(row).join("")}</table>`;
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
  constructor(board, name, place) {
    Object.assign(this, { board, name, place, charts: board.charts });
    const { usermeta = {}, signals } = this.charts.spec(name);
    this.meta = usermeta;
    this.signals = new Set(signals.map((signal) => signal.name));
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
    this.view?.finalize();
    this.view = undefined;
    this.stale = new Set(this.sets);
  }

  async embed(signals) {
    const rows = Object.fromEntries(this.sets.map((set) => [set, this.rows(set)]));
    this.fitted = this.width();
    const size = { width: this.fitted, height: this.height(rows[this.sets[0]]) };
    this.charts.wanted = true;
    const view = await this.charts.embed(this.place, this.name, rows, { ...signals, ...size });
    this.view = view;
    if (this.meta.brush) view.addSignalListener("brush", (_, value) => this.brushMoves(value));
    if (this.meta.pick) view.addEventListener("click", (_, item) => this.pick(item?.datum));
  }

  async change(stale, signals) {
    for (const set of stale) {
      const rows = this.rows(set);
      this.view.data(set, rows);
      if (set === this.sets[0]) this.view.height(this.height(rows));
    }
    for (const [name, value] of Object.entries(signals)) {
      if (this.signals.has(name)) this.view.signal(name, value);
    }
    await this.view.runAsync();
  }

  async update() {
    const all = Object.entries(this.board.model.get("signals"));
    const signals = Object.fromEntries(all.filter(([name]) => this.follows(name)));
    const seen = JSON.stringify(signals);
    if (this.view && !this.stale.size && this.seen === seen) return;
    const stale = [...this.stale]; // what becomes stale from here on is drawn the next time
    this.stale.clear();
    this.seen = seen;
    await (this.view ? this.change(stale, signals) : this.embed(signals));
    requestAnimationFrame(() => this.fit()); // it may have been made while nothing had a width
    await this.showBrush();
    const alt = this.board.model.get("said")[this.name]?.alt ?? "";
    this.place.setAttribute("aria-label", alt);
  }

  follows(name) {
    return this.signals.has(name) || (this.stays && name === "time_s");
  }

  rows(set) {
    return rowsOf(this.board.model.get(`set_${set}`));
  }

  // A chart whose values take a row each is as high as they need.
  height(rows) {
    const { column, height } = this.meta.rows ?? {};
    if (!height) return this.charts.spec(this.name).height;
    const values = new Set(rows.map((row, number) => row[column] ?? number));
    return values.size * height + 56;
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
    const chosen = this.board.model.get("signals").time_s;
    const scale = this.view.scale("x");
    const wanted = chosen ? chosen.map((second) => scale(second)) : [0, 0];
    const shown = this.view.signal("brush_x");
    if (wanted.every((edge, side) => Math.abs(edge - (shown[side] ?? 0)) < 0.5)) return;
    await this.view.signal("brush_x", wanted).runAsync();
  }
}

class Table {
  constructor(board, name, place) {
    Object.assign(this, { board, name, place, columns: board.model.get("tables")[name] });
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
