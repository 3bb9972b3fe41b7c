// Draws the form that the server describes, and reads what is set in it. What is left alone is not sent.

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const words = (value) => (value === true ? "yes" : value === false ? "no" : String(value));
const LONG = new Set(["prompt", "low_prompt", "negative", "low_negative"]);

// One setting: a label, a control, and what it means.
class Dial {
  constructor(about, prefix, changed) {
    this.about = about;
    this.changed = changed;
    this.id = `${prefix}-${about.name}`;
    this.help = element("p", { class: "hint", id: `${this.id}-help` }, about.help);
    this.why = element("p", { class: "hint why" }, "Without effect with this model.");
    this.input = this.control();
    this.input.id = this.id;
    this.input.setAttribute("aria-describedby", this.help.id);
    this.input.addEventListener("input", () => {
      if (this.slider && this.input.value !== "") this.slider.value = this.input.value;
      this.mark();
      changed();
    });
    const row = this.slider ? element("div", { class: "row" }, this.slider, this.input) : this.input;
    this.node = element("div", { class: "dial" }, element("label", { for: this.id }, about.label), row, this.help, this.why);
    this.setDefault(about.default);
  }

  control() {
    const { kind, choices, name, least, most } = this.about;
    if (kind === "choice") return element("select", {}, element("option", { value: "" }), ...choices.map((choice) => element("option", { value: choice }, words(choice))));
    if (kind === "boolean") return element("select", {}, element("option", { value: "" }), element("option", { value: "true" }, "yes"), element("option", { value: "false" }, "no"));
    if (kind === "string") return LONG.has(name) ? element("textarea", { rows: 3, maxlength: 2000 }) : element("input", { type: "text", maxlength: 2000 });
    const step = kind === "integer" ? 1 : "any";
    if (least !== null && most !== null && most - least <= 8) {
      this.slider = element("input", { type: "range", min: least, max: most, step: most - least <= 2 ? 0.05 : 0.25, "aria-label": `${this.about.label}, slider` });
      if (kind === "integer") this.slider.step = 1;
      this.slider.addEventListener("input", () => {
        this.input.value = this.slider.value;
        this.mark();
        this.changed();
      });
    }
    return element("input", { type: "number", min: least, max: most, step, inputmode: kind === "integer" ? "numeric" : "decimal" });
  }

  setDefault(value) {
    this.own = value;
    const said = value === null || value === undefined || value === "" ? "" : words(value);
    if (this.input.tagName === "SELECT") this.input.options[0].textContent = said ? `default: ${said}` : "default";
    else this.input.placeholder = this.about.name === "seed" ? "random" : said || (this.about.kind === "string" ? "" : "default");
    if (this.slider && this.input.value === "" && said) this.slider.value = value;
  }

  enable(works) {
    this.input.disabled = !works;
    if (this.slider) this.slider.disabled = !works;
    this.node.classList.toggle("off", !works);
  }

  get value() {
    const text = this.input.value;
    if (text === "" || this.input.disabled) return null;
    if (this.about.kind === "boolean") return text === "true";
    return this.about.kind === "integer" || this.about.kind === "number" ? Number(text) : text;
  }

  set value(value) {
    this.input.value = value === null || value === undefined ? "" : String(value);
    if (this.slider) this.slider.value = this.input.value === "" ? this.own : this.input.value;
    this.mark();
  }

  mark() {
    this.node.classList.toggle("changed", this.input.value !== "");
  }
}

// A part such as the sampler: which one, and its own options.
class Part {
  constructor(about, chosen, changed) {
    this.about = about;
    this.dial = new Dial({ ...about, kind: "choice", choices: about.choices.map((choice) => choice.name), default: null }, "part", () => {
      this.draw();
      chosen();
    });
    this.changed = changed;
    this.options = element("div", { class: "options", hidden: true });
    this.node = element("div", {}, this.dial.node, this.options);
    this.help = this.dial.help.textContent;
  }

  get choice() {
    const name = this.dial.input.value || this.dial.own;
    return this.about.choices.find((each) => each.name === name);
  }

  // The settings that the chosen part replaces the model's defaults with.
  get sets() {
    return this.dial.input.disabled ? {} : this.choice?.sets ?? {};
  }

  draw() {
    const choice = this.choice;
    this.dial.help.textContent = choice?.summary || this.help;
    this.inner = (choice?.options ?? []).map((option) => new Dial(option, `option-${this.about.name}`, this.changed));
    this.options.replaceChildren(...this.inner.map((dial) => dial.node));
    this.options.hidden = !this.inner.length || this.dial.input.disabled;
  }

  get value() {
    const options = this.dial.input.disabled ? [] : (this.inner ?? []).filter((dial) => dial.value !== null);
    if (!options.length) return this.dial.value;
    return { name: this.dial.value ?? this.dial.own, ...Object.fromEntries(options.map((dial) => [dial.about.name, dial.value])) };
  }

  set value(value) {
    this.dial.value = value?.name ?? value;
    this.draw();
    for (const dial of this.inner) if (value?.[dial.about.name] !== undefined) dial.value = value[dial.about.name];
  }
}

export class Form {
  constructor(about, place, changed) {
    this.about = about;
    this.changed = changed;
    this.dials = new Map(about.dials.map((dial) => [dial.name, new Dial(dial, "dial", () => { this.showDefaults(); changed(); })]));
    this.parts = about.parts.map((part) => new Part(part, () => { this.showDefaults(); changed(); }, changed));
    this.model = element("select", { id: "model" }, ...about.models.map((model) => element("option", { value: model.name }, model.name)));
    this.modelHelp = element("p", { class: "hint", id: "model-help" });
    this.model.setAttribute("aria-describedby", "model-help");
    this.checkpoint = element("select", { id: "checkpoint" }, element("option", { value: "" }, "the model's own"), ...about.checkpoints.map((name) => element("option", { value: name }, name)));
    this.sizeBy = element("select", { id: "size-by", class: "grow" }, ...about.sizes.map((name) => element("option", { value: name }, this.dials.get(name).about.label)));
    this.model.addEventListener("change", () => { this.apply(); changed(); });
    this.checkpoint.addEventListener("change", changed);
    this.sizeBy.addEventListener("change", () => { this.apply(); changed(); });
    place.replaceChildren(...this.groups());
    place.removeAttribute("aria-busy");
    this.apply();
  }

  groups() {
    const of = (group) => this.about.dials.filter((dial) => dial.group === group && !this.about.sizes.includes(dial.name)).map((dial) => this.dials.get(dial.name).node);
    const labelled = (id, label, ...rest) => element("div", { class: "dial" }, element("label", { for: id }, label), ...rest);
    const open = (name, ...inside) => element("fieldset", {}, element("legend", {}, name), ...inside);
    const shut = (name, ...inside) => element("details", {}, element("summary", {}, name), element("div", { class: "inside" }, ...inside));
    const checkpoint = this.about.checkpoints.length ? labelled("checkpoint", this.about.checkpoint.label, this.checkpoint) : null;
    return [
      element("fieldset", {}, labelled("model", "Model", this.model, this.modelHelp), checkpoint),
      open("Size", labelled("size-by", "Size given as", this.sizeBy), ...this.about.sizes.map((name) => this.dials.get(name).node), ...of("Size")),
      open("Look", ...of("Look")),
      shut("Prompts", ...of("Prompts")),
      shut("Parts", ...this.parts.map((part) => part.node)),
      shut("More", ...of("More")),
    ];
  }

  get chosenModel() {
    return this.about.models.find((model) => model.name === this.model.value);
  }

  // Shows the chosen model's defaults, and enables what has an effect with it.
  apply() {
    const model = this.chosenModel;
    const ignored = new Set(model.ignores);
    this.modelHelp.textContent = model.summary;
    for (const [name, dial] of this.dials) {
      dial.enable(!ignored.has(name));
      if (this.about.sizes.includes(name)) {
        dial.node.hidden = name !== this.sizeBy.value;
        if (dial.node.hidden) dial.value = null;
      }
    }
    for (const part of this.parts) {
      part.dial.setDefault(part.about.default ?? model.defaults[part.about.name]);
      part.dial.enable(!ignored.has(part.about.name));
      part.draw();
    }
    this.showDefaults();
    this.checkpoint.disabled = ignored.has("checkpoint");
    this.checkpoint.options[0].hidden = model.is_base;
    if (model.is_base && this.checkpoint.value === "") this.checkpoint.selectedIndex = 1;
  }

  showDefaults() {
    const { defaults } = this.chosenModel;
    const sets = Object.assign({}, ...this.parts.map((part) => part.sets));
    const speed = this.dials.get("speed").value ?? this.about.own.speed ?? defaults.speed;
    const steps = (sets.num_inference_steps ?? defaults.num_inference_steps) * this.about.step_shares[speed];
    const found = { ...defaults, ...sets, num_inference_steps: Math.ceil(steps), ...this.about.own };
    for (const [name, dial] of this.dials) dial.setDefault(found[name] ?? dial.about.default);
  }

  // The dials of which a sheet can be made.
  get comparable() {
    return [...this.dials.values()].filter((dial) => !dial.input.disabled && !dial.node.hidden && dial.about.kind !== "string" && dial.about.name !== "seed");
  }

  get value() {
    const found = { model: this.model.value };
    if (!this.checkpoint.disabled && this.checkpoint.value) found.checkpoint = this.checkpoint.value;
    for (const [name, dial] of this.dials) if (dial.value !== null) found[name] = dial.value;
    for (const part of this.parts) if (part.value !== null) found[part.about.name] = part.value;
    return found;
  }

  set value(given) {
    if (this.about.models.some((model) => model.name === given.model)) this.model.value = given.model;
    this.checkpoint.value = given.checkpoint ?? "";
    this.sizeBy.value = this.about.sizes.find((name) => given[name] !== undefined) ?? this.about.sizes[0];
    for (const [name, dial] of this.dials) dial.value = given[name];
    for (const part of this.parts) part.value = given[part.about.name];
    this.apply();
    for (const part of this.parts) part.value = given[part.about.name];
  }

  // The first field that cannot be right, in words; "" if there is none.
  get problem() {
    for (const dial of this.dials.values()) {
      if (!dial.input.disabled && !dial.node.hidden && !dial.input.checkValidity()) {
        return `${dial.about.label}: ${dial.input.validationMessage}`;
      }
    }
    return "";
  }
}

// The settings of downloads, as a query.
export class FileForm {
  constructor(dials, place, changed) {
    this.dials = dials.map((about) => new Dial(about, "file", () => { this.apply(); changed(); }));
    place.replaceChildren(...this.dials.map((dial) => dial.node));
    for (const dial of this.dials) dial.why.textContent = "This type of file loses nothing.";
    this.of("format").setDefault("png");
    this.of("quality")?.setDefault("");
    this.apply();
  }

  of(name) {
    return this.dials.find((dial) => dial.about.name === name);
  }

  apply() {
    this.of("quality")?.enable(["jpg", "jpeg", "webp", "avif"].includes(this.of("format").value));
  }

  get query() {
    const set = this.dials.filter((dial) => dial.value !== null).map((dial) => [dial.about.name, dial.value]);
    return new URLSearchParams(Object.fromEntries(set)).toString();
  }
}
