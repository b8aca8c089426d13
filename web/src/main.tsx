// The page: which screen the URL asks for, the frame around it, and what it shows while it waits.
import { Component, render, type ComponentChildren, type ComponentType } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { areKeysOff, HELP, listenToKeys, switchKeys } from "./keys";
import { listen, live, useLive } from "./live";
import { duration } from "./numbers";
import { forgetParts, loadPart, PACK_VERSION } from "./pack";
import { Failure, Missing, Title, Waiting } from "./pieces";
import { href, useRoute, type Route } from "./route";
import { manifest, setRun, verdict } from "./run";
import { ClusterScreen, ClustersScreen } from "./screens/clusters";
import { ComponentScreen, ComponentsScreen } from "./screens/components";
import { HypothesisScreen } from "./screens/hypothesis";
import { JudgesScreen } from "./screens/judges";
import { MapScreen } from "./screens/map";
import { PromptScreen, PromptsScreen } from "./screens/prompts";
import { RunScreen, Unfinished } from "./screens/run";
import { FeatureScreen, SaeScreen, SaesScreen } from "./screens/saes";
import { SearchScreen } from "./screens/search";
import { TextScreen } from "./screens/text";
import { HypothesesScreen, VerdictScreen } from "./screens/verdict";
import { keep, recall } from "./storage";
import { visible } from "./text";
import { useAsync } from "./use";
import { Head, Warning } from "./layout";

async function loadRun(): Promise<true> {
  const [about, first] = await Promise.all([loadPart("manifest"), loadPart("verdict")]);
  setRun(about.values, first.values);
  return true;
}

type Screens = Record<string, ComponentType<{ id: string }>>;

const AUDIT: Screens = {
  "": VerdictScreen, hypotheses: HypothesesScreen, h: HypothesisScreen, clusters: ClustersScreen, c: ClusterScreen, map: MapScreen, prompts: PromptsScreen, p: PromptScreen,
  texts: SearchScreen, t: TextScreen, components: ComponentsScreen, component: ComponentScreen, judges: JudgesScreen, run: RunScreen,
};
const COMPARISON: Screens = { "": SaesScreen, sae: SaeScreen, feature: FeatureScreen, run: RunScreen };

/** The screens in the frame: path, name, and the key after "g" that goes there. */
const LISTED: [string, string, string][] = [
  ["", "Verdict", "o"], ["hypotheses", "Hypotheses", "h"], ["clusters", "Clusters", "c"], ["map", "Map", "m"],
  ["prompts", "Prompts", "p"], ["texts", "Search", "t"], ["components", "Components", "k"], ["judges", "Judges", "j"], ["run", "Run", "r"],
];
const LISTED_SAES: typeof LISTED = [["", "SAEs", "o"], ["run", "Run", "r"]];

function Screen({ route }: { route: Route }) {
  const [screen = "", id = ""] = route.path;
  const screens = verdict.saes ? COMPARISON : AUDIT;
  const Found = Object.hasOwn(screens, screen) && screens[screen];
  return Found ? <Found id={id} key={id} /> : <><Title>No such screen</Title><Missing>There is nothing at this address. <a href="#/">To the first screen</a></Missing></>;
}

/** One screen that fails leaves the others alone. */
class Guard extends Component<{ at: string; children: ComponentChildren }, { error: Error | null; at: string }> {
  state = { error: null as Error | null, at: "" };
  static getDerivedStateFromError(error: Error) {
    return { error };
  }
  componentDidUpdate(before: { at: string }) {
    if (before.at !== this.props.at && this.state.error) this.setState({ error: null });
  }
  render() {
    return this.state.error ? <><Title>This screen failed</Title><Failure error={this.state.error} /></> : this.props.children;
  }
}

function App() {
  const route = useRoute();
  const { news, staleSince } = useLive();
  const [revision, setRevision] = useState(0);
  const [said, setSaid] = useState("");
  const help = useRef<HTMLDialogElement>(null);
  const main = useRef<HTMLElement>(null);
  const isWaiting = live.isServed && news !== null && news.state !== "finished";
  const found = useAsync(() => (isWaiting ? new Promise<never>(() => undefined) : loadRun()), [revision, isWaiting]);
  const at = route.path.join("/");
  useEffect(() => {
    listen(() => {
      forgetParts();
      setRevision((n) => n + 1);
    });
    listenToKeys({ help: () => help.current?.showModal(), say: setSaid });
  }, []);
  // A new screen is read from its heading, also where that comes only when its data are there.
  const isFirst = useRef(true);
  const wantsFocus = useRef(false);
  useEffect(() => {
    const read = (): void => {
      const h1 = main.current!.querySelector("h1");
      const title = `${h1?.textContent?.trim().slice(0, 80) ?? ""} · whatchanged`;
      if (document.title !== title) document.title = title;
      if (wantsFocus.current && document.activeElement === document.body) h1?.focus({ preventScroll: true });
    };
    const observer = new MutationObserver(read);
    observer.observe(main.current!, { childList: true, subtree: true, characterData: true });
    const settle = (): void => {
      wantsFocus.current = false;
    };
    for (const act of ["pointerdown", "keydown"]) addEventListener(act, settle);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    if (!isFirst.current) {
      wantsFocus.current = true;
      scrollTo(0, 0);
      main.current!.querySelector("h1")?.focus({ preventScroll: true });
    }
    isFirst.current = false;
    setSaid("");
  }, [at]);
  const version = found.value ? manifest.version : 0;
  return (
    <>
      <a class="skip" href="#main" onClick={(e) => { e.preventDefault(); main.current?.querySelector("h1")?.focus(); }}>To the content</a>
      <header class="frame">
        <a class="brand" href="#/">whatchanged</a>
        <nav aria-label="Screens">
          {(found.value && verdict.saes ? LISTED_SAES : LISTED).map(([path, name, key]) => <a href={href(path ? [path] : [])} data-go={key} aria-current={isOf(route.path[0], path) ? "page" : undefined}>{name}</a>)}
        </nav>
        <Badge news={news} staleSince={staleSince} />
        <button onClick={nextTheme} aria-label="Light, dark, or as the system has it">◐</button>
        <button onClick={() => help.current?.showModal()} aria-label="Help">?</button>
      </header>
      <main id="main" ref={main}>
        {said && <p class="callout" role="status">{said}</p>}
        {version > PACK_VERSION && <Warning>A newer version of whatchanged wrote these data (form {version}); this page knows form {PACK_VERSION}. Some of it may be missing.</Warning>}
        <Guard at={location.hash}>
          {isWaiting ? <Unfinished news={news} />
            : found.error && (news || !live.isServed) ? <><Title>This run cannot be shown</Title><Failure error={found.error} /></>
              : found.value ? <Screen route={route} />
                : <><Title>Reading the run</Title><Waiting what="the run" /></>}
        </Guard>
      </main>
      <footer class="frame"><p>{found.value && <>run {visible(manifest.run)}{manifest.created_utc && `, ${manifest.created_utc.slice(0, 10)}`}. </>}This page loads nothing from anywhere else.</p></footer>
      <Help dialog={help} />
    </>
  );
}

const HOMES: Record<string, string> = { h: "hypotheses", c: "clusters", p: "prompts", t: "texts", component: "components", sae: "", feature: "" };

function isOf(screen: string | undefined, path: string): boolean {
  return (HOMES[screen ?? ""] ?? screen ?? "") === path;
}

function Badge({ news, staleSince }: { news: typeof live.news; staleSince: Date | null }) {
  if (staleSince) return <span class="badge stale" role="status">stale since {staleSince.toLocaleTimeString()}</span>;
  if (!news || news.state === "finished") return null;
  return <span class="badge" role="status">{news.state === "in progress" ? `live: ${news.stage ?? "starting"}, ${duration(Object.values(news.seconds).reduce((a, b) => a + b, 0))}` : "interrupted"}</span>;
}

const THEMES = ["auto", "light", "dark"];
const THEME = "whatchanged/theme";

function nextTheme(): void {
  const now = document.documentElement.dataset.theme ?? "auto";
  setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
}

function setTheme(theme: string): void {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  keep(THEME, theme);
  dispatchEvent(new Event("themechange"));
}

function Help({ dialog }: { dialog: { current: HTMLDialogElement | null } }) {
  const [isOff, setOff] = useState(areKeysOff());
  return (
    <dialog ref={dialog} aria-labelledby="help-title">
      <h2 id="help-title">Keys</h2>
      <table><caption class="sr">Keys and what they do</caption><tbody>{HELP.map(([keys, what]) => <tr><Head>{keys.split(" ").map((k) => (k === "then" ? " then " : <kbd>{k}</kbd>))}</Head><td>{what}</td></tr>)}</tbody></table>
      <p><label><input type="checkbox" checked={!isOff} onChange={(e) => { switchKeys(e.currentTarget.checked); setOff(!e.currentTarget.checked); }} /> single keys do something</label></p>
      <form method="dialog"><button>Close</button></form>
    </dialog>
  );
}

setTheme(recall(THEME) ?? "auto");
render(<App />, document.getElementById("app")!);
