// Puts the page together: what comes from the server goes to the parts, what the parts say goes to the server.

import { byId } from "./element.js";
import { Gamepad } from "./gamepad.js";
import { writeHelp } from "./help.js";
import { Hud } from "./hud.js";
import { Keys, assign, captions } from "./keys.js";
import { banner, noBanner, note } from "./notes.js";
import { Pacer } from "./pacer.js";
import { Pad } from "./pad.js";
import { Plot } from "./plot.js";
import { Recording } from "./recording.js";
import { Row } from "./row.js";
import { FINAL } from "./protocol.js";
import { Scenes, address } from "./scenes.js";
import { share } from "./share.js";
import { Sliders } from "./sliders.js";
import { Socket } from "./socket.js";
import { showState } from "./state.js";
import { takeToken } from "./token.js";
import { Transport } from "./transport.js";

const SEND_EVERY = 1000 / 30; // milliseconds; well below the 250 after which the server takes the driver for lost

const token = takeToken();
const socket = new Socket(token, { message: receive, pass, opened: noBanner, lost });
const pacer = new Pacer(byId("picture"), shown, unshown);
const hud = new Hud(byId("hud"));
const plot = new Plot(byId("plot"), byId("legend"));
const pad = new Pad(byId("pad"), byId("pad-dot"), [byId("pad-right"), byId("pad-up")]);
const recording = new Recording(byId("recording"), byId("recording-time"));
const transport = new Transport(byId("transport"), act);
const scenes = new Scenes(
  {
    list: byId("scenes"),
    seed: byId("seed"),
    newSeed: byId("new-seed"),
    uploadButton: byId("upload-button"),
    uploadFile: byId("upload"),
  },
  token,
  (scene, seed) => socket.send("reset", { scene, seed }),
  (text) => note(text, "error"),
);

const invited = new URLSearchParams(location.search).has("view"); // by the link for viewers
let role = invited ? "viewer" : "driver";
let welcome = null;
let state = { state: "connecting", source: "human" };
let parts = null; // what depends on the robot: {row, keys, gamepad, sliders}
let seq = 0;
let ticked = performance.now();

const driving = () => role === "driver" && welcome !== null && socket.open;
const byHand = () => driving() && state.source === "human";

// From the server

function receive(message) {
  const handlers = { welcome: begin, state: changed, scene, busy, error, recorded, pong };
  handlers[message.type]?.(message);
}

async function begin(message) {
  welcome = message;
  role = message.role;
  document.body.dataset.role = role;
  byId("drive").hidden = invited || role === "driver";
  byId("robot").textContent = message.robot ?? "";
  document.documentElement.style.setProperty("--ratio", message.width / message.height);
  pacer.configure(message);
  hud.configure(message);
  plot.configure(message);
  scenes.offer(message.scenes);
  build(message.columns);
  changed(message.state);
  if (driving() && state.state === "stopped" && !state.made) act("reset"); // so that a newcomer need only start
  const printed = await captions(parts.keys.assigned);
  parts.sliders.caption(printed);
  writeHelp(message, printed);
}

/** The parts that depend on the robot; made once, unless another robot is served after the link came back. */
function build(columns) {
  if (parts && JSON.stringify(parts.row.columns) === JSON.stringify(columns)) return;
  const row = new Row(columns);
  const keys = new Keys(assign(columns), (i, side, on) => parts?.sliders.light(i, side, on));
  const gamepad = new Gamepad(columns, act, showGamepad);
  parts = { row, keys, gamepad, sliders: new Sliders(byId("sliders"), row, keys) };
  pad.attach(row);
  showGamepad(null);
}

function changed(message) {
  state = { ...state, ...message };
  document.body.dataset.state = state.state;
  showState(state, role);
  if (!welcome) return;
  for (const id of ["pad", "sliders", "scenes"]) byId(id).inert = role === "viewer";
  transport.show(state, welcome.sources);
  recording.show(state.recording);
}

function scene({ scene: id, seed, picture, controls }) {
  const bytes = Uint8Array.from(atob(picture), (letter) => letter.charCodeAt(0));
  pacer.show(bytes);
  scenes.mark(id, seed, state.made ? null : address(picture)); // a newcomer is shown where the film stands
  plot.clear();
  parts.keys.releaseAll();
  parts.row.set(controls);
}

function pass(header, pictures) {
  hud.received(header);
  pacer.add(header, pictures);
  if (!byHand()) parts.row.set(header.controls.at(-1));
}

/** Frame i of a pass has appeared on the screen. */
function shown(header, i) {
  const ours = role === "driver" && header.action_ts !== null; // a viewer's clock is not the driver's
  hud.shown(header, i, ours ? performance.now() - header.action_ts : null);
  if (i === 0) plot.add(header.controls);
}

function unshown({ message }) {
  note(`A frame could not be shown: ${message}`, "error");
}

function busy({ since, takeover }) {
  socket.giveUp();
  const clock = new Date(since).toLocaleTimeString([], { timeStyle: "short" });
  banner(`Someone else is driving, since ${clock}.`, [
    ["Watch", () => socket.connect("viewer")],
    ["Try again", () => socket.connect("driver")],
    ...(takeover ? [["Take over", () => socket.connect("driver", true)]] : []),
  ]);
}

function error({ message }) {
  note(message, "error");
}

function recorded({ id, frames }) {
  note(`Recording saved: ${id}, ${frames} frames`);
}

function pong({ ts }) {
  hud.roundTrip(performance.now() - ts);
}

function lost(wait, code) {
  letGo();
  changed({ state: wait === null ? "offline" : "connecting", reason: "" });
  if (code in FINAL) banner(FINAL[code]);
  else if (wait !== null) {
    banner(`The connection is lost. Trying again in ${wait} s …`, [["Now", () => socket.connect(role)]]);
  }
}

// To the server

function act(id) {
  if (!driving()) return;
  const running = state.state === "running";
  const actions = {
    toggle: () => (running ? socket.send("pause") : state.state === "paused" && start()),
    step: () => {
      if (state.state !== "paused") return;
      sendControls();
      socket.send("step");
    },
    reset: () => socket.send("reset", { scene: scenes.current ?? null, seed: scenes.seed }),
    stop: () => socket.send("stop"),
    record: () => socket.send("record", { on: !state.recording }),
    keep: () => socket.send("keep"),
    source: () => socket.send("source", { name: after(welcome.sources, state.source) }),
  };
  actions[id]();
}

function start() {
  sendControls();
  socket.send("resume");
}

function sendControls() {
  if (!byHand()) return;
  seq += 1;
  socket.send("control", { seq, values: parts.row.values, ts: performance.now() });
}

/** Thirty times a second: what is pushed moves the row, and the row is sent. */
function tick() {
  const now = performance.now();
  const seconds = Math.min(0.1, (now - ticked) / 1000);
  ticked = now;
  if (!parts) return;
  const { row, keys, gamepad, sliders } = parts;
  const sticks = gamepad.pushes();
  if (byHand()) row.advance(seconds, keys.pushes().map((push, i) => push + sticks[i]));
  sliders.refresh();
  pad.refresh();
  hud.refresh(pacer.skipped);
  if (state.state === "running") sendControls();
}

/** Nothing is held any more. */
function letGo() {
  parts?.keys.releaseAll();
  parts?.row.releaseAll();
}

/** The window is not looked at: nobody drives. */
function away() {
  letGo();
  if (byHand() && state.state === "running") socket.send("pause");
}

// The window

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const dialog = document.querySelector("dialog[open]");
  if (event.code === "Escape" && (!dialog || state.state === "running")) act("stop");
  if (dialog || typing(event.target)) return;
  const own = event.target.matches("button, a, input");
  if (own && ["Enter", "Space"].includes(event.code)) return; // a focused button is pressed with these
  if (own && event.target.type === "range" && event.code.startsWith("Arrow")) return;
  if (event.key === "?") help();
  else if (parts?.keys.places.has(event.code)) {
    if (!event.repeat) parts.keys.down(event.code);
  } else if (transport.action(event.code) && event.code !== "Escape") {
    if (!event.repeat) act(transport.action(event.code));
  } else return;
  event.preventDefault();
}

function typing(target) {
  return target.matches("input:not([type=range]), textarea, select");
}

function help() {
  away();
  byId("help").showModal();
}

function showGamepad(name) {
  byId("gamepad").classList.toggle("on", name !== null);
  const none = "getGamepads" in navigator ? "No gamepad: press one of its buttons" : "This browser has no gamepads";
  byId("gamepad-text").textContent = name ?? none;
}

function after(list, item) {
  return list[(list.indexOf(item) + 1) % list.length];
}

addEventListener("keydown", pressed);
addEventListener("keyup", ({ code }) => parts?.keys.up(code));
addEventListener("blur", away);
document.addEventListener("visibilitychange", () => document.hidden && away());
// What a mouse or finger has pressed must not keep the keyboard: Enter would press it again.
addEventListener("pointerup", ({ target }) => target.closest?.("button, input[type=range]")?.blur());
byId("drive").addEventListener("click", () => socket.connect("driver"));
byId("help-button").addEventListener("click", help);
byId("share").addEventListener("click", () => share(token));
byId("hud-button").addEventListener("click", ({ currentTarget: button }) => {
  const open = document.body.classList.toggle("figures");
  button.ariaExpanded = open;
});
setInterval(tick, SEND_EVERY);
socket.connect(role);
