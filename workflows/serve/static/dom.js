// Elements, and how numbers are told. Text of others (labels, file names) goes through textContent alone.

/** An element: `make("button", { class: "quiet", type: "button", onclick: act, "aria-label": "Close" }, "×")`. */
export function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (typeof value === "boolean") made.toggleAttribute(key, value);
    else if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** A copy of a template of the page, and its parts by their `data-ref`. */
export function template(id) {
  const root = document.getElementById(id).content.cloneNode(true);
  return { root, ...Object.fromEntries([...root.querySelectorAll("[data-ref]")].map((part) => [part.dataset.ref, part])) };
}

/** A class's mark: its two letters on its colour, as on the timeline. */
export function mark({ colour, code }) {
  const made = make("span", { class: "mark", "aria-hidden": "true" }, code);
  made.style.backgroundColor = colour;
  return made;
}

/** 1536000 -> "1.5 MB". */
export function size(bytes) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let n = bytes, unit = 0;
  while (n >= 1000 && unit < units.length - 1) [n, unit] = [n / 1000, unit + 1];
  return `${unit && n < 10 ? n.toFixed(1) : Math.round(n)} ${units[unit]}`;
}

/** 100 -> "about 2 minutes": a time to wait, as one says it. */
export function wait(seconds) {
  if (!Number.isFinite(seconds)) return "a while";
  if (seconds < 10) return "a few seconds";
  if (seconds < 55) return `about ${Math.ceil(seconds / 10) * 10} seconds`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return minutes === 1 ? "about a minute" : `about ${minutes} minutes`;
  const hours = Math.round(minutes / 6) / 10;
  return hours === 1 ? "about an hour" : `about ${hours} hours`;
}

/** An RFC 3339 time -> "today, 14:05" or "3 Mar, 14:05". */
export function date(text) {
  const when = new Date(text);
  const hour = when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const today = when.toDateString() === new Date().toDateString();
  return `${today ? "today" : when.toLocaleDateString([], { day: "numeric", month: "short" })}, ${hour}`;
}

/** Ask before something cannot be undone; true when the user means it. */
export function confirmed(question, verb) {
  const { root, dialog, text, yes } = template("confirm");
  text.textContent = question;
  yes.textContent = verb;
  document.body.append(root);
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => {
    dialog.remove();
    resolve(dialog.returnValue === "yes");
  }));
}
