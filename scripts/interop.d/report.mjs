// What was found: a line for a person, or a JSON object, per check.

export class Report {
  passed = 0;
  failed = 0;
  skips = 0;
  #json;

  constructor(json) {
    this.#json = json;
  }

  // client returns what a client's checks report to.
  client(name, version) {
    return {
      // check runs a check; it fails by throwing.
      check: async (what, run) => {
        const begun = performance.now();
        let reason = "";
        try {
          await run();
        } catch (err) {
          reason = String(err?.message ?? err);
        }
        const seconds = (performance.now() - begun) / 1000;
        this.#add({ client: name, version, check: what, outcome: reason ? "FAILED" : "ok", seconds: Number(seconds.toFixed(2)), reason });
      },
      skipped: (what, reason) => this.#add({ client: name, version, check: what, outcome: "skipped", seconds: 0, reason }),
    };
  }

  #add(result) {
    result.reason = masked(result.reason);
    if (result.outcome === "ok") this.passed++;
    else if (result.outcome === "FAILED") this.failed++;
    else this.skips++;
    if (this.#json) {
      if (!result.reason) delete result.reason;
      console.log(JSON.stringify(result));
      return;
    }
    const why = result.reason ? `: ${result.reason}` : "";
    console.log(`${result.outcome.padEnd(7)} ${result.client} ${result.version}  ${result.check}  ${result.seconds.toFixed(2)}s${why}`);
  }

  end() {
    const line = `${this.passed} passed, ${this.failed} failed, ${this.skips} skipped`;
    (this.#json ? console.error : console.log)(line);
  }
}

// masked keeps bearer tokens out of what is printed.
function masked(text) {
  return text.replace(/\b[\w-]{16,}\.[\w-]{16,}\.[\w-]{16,}/g, "TOKEN");
}
