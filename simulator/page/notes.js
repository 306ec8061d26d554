// Short notes that go away by themselves, and a banner that stays until something has been done.

import { byId, element } from "./element.js";

const SECONDS = { note: 6, error: 10 };

export function note(text, kind = "note") {
  const shown = element("p", { className: kind, textContent: text });
  byId("notes").append(shown);
  while (byId("notes").childElementCount > 3) byId("notes").firstChild.remove();
  setTimeout(() => shown.remove(), 1000 * SECONDS[kind]);
}

/** actions: [[label, what to do], ...]. */
export function banner(text, actions = []) {
  byId("banner-text").textContent = text;
  byId("banner-buttons").replaceChildren(
    ...actions.map(([label, act]) => element("button", { type: "button", textContent: label, onclick: act })),
  );
  byId("banner").hidden = false;
}

export function noBanner() {
  byId("banner").hidden = true;
}
