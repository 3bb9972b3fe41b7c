// Shows a photo before and after, one over the other, with a divider; both zoom and move together.

const at = (id) => document.getElementById(id);
const within = (value, least, most) => Math.min(Math.max(value, least), most);
const MOST = 16; // screen pixels for a pixel of the result

export class Viewer {
  constructor() {
    this.stage = at("stage");
    this.layers = { before: at("before"), after: at("after") };
    this.divider = at("divider");
    this.split = at("split");
    this.size = null; // of the result, in pixels
    this.pointers = new Map();
    this.listen();
    new ResizeObserver(() => this.size && (this.fitted ? this.fit() : this.draw())).observe(this.stage);
  }

  // Shows a photo alone, or with its result; width and height are those of the result.
  show({ before, after, width, height, name }) {
    const same = this.size && this.size.width === width && this.size.height === height && this.name === name;
    this.size = { width, height };
    this.name = name;
    this.put("before", before, `${name}, before`);
    this.put("after", after, `${name}, restored`);
    at("empty").hidden = true;
    this.divider.hidden = at("tag-before").hidden = at("tag-after").hidden = !after;
    this.split.disabled = !after;
    for (const id of ["fit", "pixels", "less", "more"]) at(id).disabled = false;
    if (same) this.draw();
    else this.fit();
  }

  clear() {
    this.size = null;
    for (const layer of Object.values(this.layers)) layer.replaceChildren();
    at("empty").hidden = false;
    this.divider.hidden = at("tag-before").hidden = at("tag-after").hidden = true;
    for (const id of ["split", "fit", "pixels", "less", "more"]) at(id).disabled = true;
  }

  put(which, address, words) {
    const layer = this.layers[which];
    if (!address) return layer.replaceChildren();
    let image = layer.firstChild;
    if (!image || image.getAttribute("src") !== address) {
      image = document.createElement("img");
      image.src = address;
      image.draggable = false;
      layer.replaceChildren(image);
    }
    image.alt = words;
    image.width = this.size.width;
    image.height = this.size.height;
  }

  fit() {
    const { clientWidth: width, clientHeight: height } = this.stage;
    this.scale = Math.min(width / this.size.width, height / this.size.height);
    this.x = (width - this.size.width * this.scale) / 2;
    this.y = (height - this.size.height * this.scale) / 2;
    this.fitted = true;
    this.draw();
  }

  // Zooms so that a point of the stage stays where it is; the scale is in CSS pixels for a pixel of the result.
  zoom(scale, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    if (!this.size) return;
    const smallest = Math.min(this.stage.clientWidth / this.size.width, this.stage.clientHeight / this.size.height, 1) / 2;
    const next = within(scale, smallest, MOST / devicePixelRatio);
    this.x = x - ((x - this.x) * next) / this.scale;
    this.y = y - ((y - this.y) * next) / this.scale;
    this.scale = next;
    this.fitted = false;
    this.draw();
  }

  move(x, y) {
    if (!this.size) return;
    this.x += x;
    this.y += y;
    this.fitted = false;
    this.draw();
  }

  draw() {
    if (!this.size) return;
    const { clientWidth: width, clientHeight: height } = this.stage;
    const keep = 60; // pixels of the photo that stay in sight
    this.x = within(this.x, keep - this.size.width * this.scale, width - keep);
    this.y = within(this.y, keep - this.size.height * this.scale, height - keep);
    const where = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    const shown = this.scale * devicePixelRatio;
    for (const layer of Object.values(this.layers)) {
      layer.classList.toggle("sharp", shown >= 2);
      if (layer.firstChild) layer.firstChild.style.transform = where;
    }
    const cut = (width * this.split.value) / 100;
    const compares = !this.divider.hidden;
    this.layers.before.style.clipPath = compares ? `inset(0 ${width - cut}px 0 0)` : "none";
    this.layers.after.style.clipPath = `inset(0 0 0 ${cut}px)`;
    this.divider.style.left = `${cut}px`;
    at("zoom").textContent = `${Math.round(shown * 100)} %`;
  }

  listen() {
    const { stage } = this;
    this.split.addEventListener("input", () => this.draw());
    at("fit").addEventListener("click", () => this.size && this.fit());
    at("pixels").addEventListener("click", () => this.zoom(1 / devicePixelRatio));
    at("less").addEventListener("click", () => this.zoom(this.scale / 1.5));
    at("more").addEventListener("click", () => this.zoom(this.scale * 1.5));
    stage.addEventListener("wheel", (event) => {
      if (!this.size) return;
      event.preventDefault();
      const { x, y } = this.point(event);
      this.zoom(this.scale * Math.exp(-event.deltaY / 400), x, y);
    }, { passive: false });
    stage.addEventListener("keydown", (event) => this.key(event));
    stage.addEventListener("pointerdown", (event) => this.down(event));
    stage.addEventListener("pointermove", (event) => this.drag(event));
    for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, (event) => this.up(event));
    stage.addEventListener("dblclick", (event) => {
      if (!this.size || event.target.closest("#busy")) return;
      const { x, y } = this.point(event);
      if (this.fitted) this.zoom(1 / devicePixelRatio, x, y);
      else this.fit();
    });
  }

  key(event) {
    if (!this.size || event.target !== this.stage || event.ctrlKey || event.metaKey) return;
    const far = 60;
    const does = {
      ArrowLeft: () => this.move(far, 0),
      ArrowRight: () => this.move(-far, 0),
      ArrowUp: () => this.move(0, far),
      ArrowDown: () => this.move(0, -far),
      "+": () => this.zoom(this.scale * 1.5),
      "=": () => this.zoom(this.scale * 1.5),
      "-": () => this.zoom(this.scale / 1.5),
      0: () => this.fit(),
      1: () => this.zoom(1 / devicePixelRatio),
    }[event.key];
    if (does) {
      event.preventDefault();
      does();
    }
  }

  point(event) {
    const box = this.stage.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  down(event) {
    if (!this.size || event.target.closest("#busy")) return;
    this.splitting = !this.divider.hidden && event.target.closest("#divider") !== null;
    this.pointers.set(event.pointerId, this.point(event));
    this.stage.setPointerCapture(event.pointerId);
    this.stage.classList.add("drags");
  }

  drag(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = this.point(event);
    this.pointers.set(event.pointerId, now);
    if (this.splitting) {
      this.split.value = within((100 * now.x) / this.stage.clientWidth, 0, 100);
      this.draw();
    } else if (this.pointers.size === 2) {
      const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
      const apart = (a, b) => Math.hypot(a.x - b.x, a.y - b.y) || 1;
      this.zoom((this.scale * apart(now, other)) / apart(before, other), (now.x + other.x) / 2, (now.y + other.y) / 2);
    } else {
      this.move(now.x - before.x, now.y - before.y);
    }
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    if (!this.pointers.size) this.stage.classList.remove("drags");
  }
}
