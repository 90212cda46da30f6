// Runs a client program in an environment of its own, and says what it printed.

import { execFile, spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { dirname, join } from "node:path";

export const patience = 60_000; // milliseconds that one command of a client may take

// What runs now ends with this program, however that ends.
const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));
for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143]]) process.on(signal, () => process.exit(code));
process.stdout.on("error", () => process.exit(1)); // nobody reads any more

function tracked(child) {
  running.add(child);
  child.once("close", () => running.delete(child));
  return child;
}

export class Client {
  // program is the client's path; home is a folder that nothing else uses; browser is what it is given for a browser, in which Maya
  // Chen signs in by script.
  constructor(program, home, browser) {
    this.program = program;
    this.home = home;
    mkdirSync(home, { recursive: true });
    // Nothing of the caller's environment: a client must not find the caller's settings, accounts or proxies.
    this.env = {
      PATH: `${dirname(process.execPath)}:${join(dirname(browser), "bin")}:/usr/local/bin:/usr/bin:/bin`,
      HOME: home,
      LANG: "C.UTF-8",
      TERM: "dumb",
      NO_COLOR: "1",
      // Only what the check asks for: no updates, no usage figures.
      CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: "1",
      DISABLE_AUTOUPDATER: "1",
      GEMINI_TELEMETRY_ENABLED: "false",
      BROWSER: browser,
      SALLYPORT_BROWSER_EMAIL: "maya.chen@acme.example",
    };
  }

  // run resolves with what the program printed, whatever its exit code; it rejects if the program cannot start or does not end.
  run(args, extra = {}) {
    return new Promise((resolve, reject) => {
      const child = tracked(execFile(
        this.program, args,
        { cwd: this.home, env: { ...this.env, ...extra }, timeout: patience, killSignal: "SIGKILL", maxBuffer: 16 << 20 },
        (err, stdout, stderr) => {
          if (err && typeof err.code !== "number") reject(new Error(err.killed ? `no end within ${patience / 1000}s; it said ${brief(stdout + stderr)}` : err.message));
          else resolve({ code: err ? err.code : 0, stdout, stderr });
        },
      ));
      child.stdin.end();
    });
  }

  // terminal is run at a terminal of its own, for what a program does only where a person could be.
  terminal(args, extra = {}) {
    const line = [this.program, ...args].map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(" ");
    return new Client("script", this.home, this.env.BROWSER).run(["-qec", line, "/dev/null"], { TERM: "xterm", ...extra });
  }

  // start begins a program that is spoken to.
  start(args, extra = {}) {
    return tracked(spawn(this.program, args, { cwd: this.home, env: { ...this.env, ...extra }, stdio: ["pipe", "pipe", "pipe"] }));
  }
}

export const bearer = (token) => `Authorization: Bearer ${token}`;

// expect throws what was seen in place of what should have been.
export function expect(holds, what, saw) {
  if (!holds) throw new Error(`${what}; saw ${brief(typeof saw === "string" ? saw : JSON.stringify(saw))}`);
}

export function brief(text) {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > 400 ? `${line.slice(0, 400)}…` : line || "nothing";
}
