// The session's state in plain words.

import { byId } from "./element.js";

const NAMES = {
  connecting: "Connecting",
  offline: "Not connected",
  loading: "Loading",
  failed: "Failed",
  stopped: "Stopped",
  paused: "Paused",
  running: "Running",
};
const HINTS = {
  loading: "the model is being loaded",
  stopped: "press Reset to begin",
  paused: "press Start to drive",
};

export function showState({ state, reason }, role) {
  byId("state-name").textContent = NAMES[state] ?? state;
  byId("state-reason").textContent = reason || (role === "driver" ? HINTS[state] : "you are watching") || "";
}
