// The keyboard: every action is a link or a button on the page, and a key presses it.
import { keep, recall } from "./storage";

export const HELP: [string, string][] = [
  ["?", "this help"], ["/", "search all texts"], ["g then o h c m p t k j r", "go to a screen"],
  ["j k", "next, previous row"], ["Enter", "open the row"], ["[ ]", "previous, next of a kind"],
  ["1 2 3", "the first, second or third choice: base, intervention, both"], ["a", "next way of marking a text"],
  ["d", "word diff on or off"], ["p", "all texts of the prompt"], ["b", "blind check"], ["e", "export what is shown"], ["y", "copy the link of this view"],
  ["← →", "move over tokens, or over the map"], ["+ −", "zoom the map"], ["f", "to the filter of a list"], ["Esc", "leave a field, or go back"],
];

const OFF = "whatchanged/keys-off";
let afterG = -Infinity;

export function areKeysOff(): boolean {
  return recall(OFF) === "1";
}

export function switchKeys(on: boolean): void {
  keep(OFF, on ? "0" : "1");
}

/** Acts on the page's shortcuts; `act` does those that belong to no element. */
export function listenToKeys(act: { help: () => void; say: (what: string) => void }): void {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const target = event.target as HTMLElement;
    if (event.key === "Escape") {
      escape(target);
      return;
    }
    if (areKeysOff() || target.matches("input, select, textarea") || target.closest("dialog")) return;
    if (press(event.key, act)) event.preventDefault();
  });
}

function press(key: string, act: { help: () => void; say: (what: string) => void }): boolean {
  if (performance.now() - afterG < 1500) {
    afterG = -Infinity;
    return click("header [data-go]", "go", key);
  }
  if (key === "g") afterG = performance.now();
  else if (key === "?") act.help();
  else if (key === "/") return search();
  else if (key === "j" || key === "k") return moveRow(key === "j" ? 1 : -1);
  else if (key === "y") void copyLink(act.say);
  else if (key === "f") return focus('[data-focus="filter"]');
  else return click("main [data-key]", "key", key);
  return true;
}

/** To the search of all texts; on a page that has none, to the filter of its list. */
function search(): boolean {
  const link = document.querySelector('header [href="#/texts"]');
  if (!link) return focus('[data-focus="filter"]');
  if (!location.hash.startsWith("#/texts")) location.hash = "#/texts";
  setTimeout(() => focus('[data-focus="search"]'), 50);
  return true;
}

function click(among: string, name: string, key: string): boolean {
  const element = [...document.querySelectorAll<HTMLElement>(among)].find((e) => e.dataset[name] === key);
  element?.click();
  return element !== undefined;
}

function focus(selector: string): boolean {
  const element = document.querySelector<HTMLElement>(selector);
  element?.focus();
  return element !== null;
}

function moveRow(by: number): boolean {
  const rows = [...document.querySelectorAll<HTMLElement>("[data-row] [data-open]")];
  if (!rows.length) return false;
  const now = rows.findIndex((row) => row === document.activeElement || row.closest("[data-row]")?.contains(document.activeElement));
  const next = now < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, now + by));
  rows[next].focus();
  rows[next].closest("[data-row]")?.scrollIntoView({ block: "nearest" });
  return true;
}

function escape(target: HTMLElement): void {
  if (target.closest("dialog")) return;
  if (target.matches("input, select, textarea")) target.blur();
  else history.back();
}

async function copyLink(say: (what: string) => void): Promise<void> {
  try {
    await navigator.clipboard.writeText(location.href);
    say("The link of this view is copied.");
  } catch {
    say("This page may not use the clipboard: copy the address of the window.");
  }
}
