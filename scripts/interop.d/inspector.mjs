// MCP Inspector's command line: both eras of MCP, both regions, all connectors and one, with a token in a header; and by a sign-in of
// its own, for which it registers itself.

import { allowed, commits, expectFile, expectRefusal, expectTools, expectUntouched, named, refused } from "./expected.mjs";
import { bearer, expect } from "./run.mjs";

// What Inspector calls the eras, and the revision that each must end in.
const eras = { session: ["legacy", "2025-11-25"], stateless: ["modern", "2026-07-28"] };

export async function checkInspector(client, gateway, report) {
  const ask = async (url, era, header, ...args) => {
    const headers = header ? ["--header", header] : [];
    const said = await client.run(["--cli", url, "--transport", "http", "--protocol-era", era, ...headers, "--stored-auth-only", "--format", "json", ...args]);
    return { ...said, result: parsed(said.stdout)?.result, error: parsed(said.stderr.trim().split("\n").at(-1))?.error };
  };
  const call = async (url, era, tool, args) => {
    const said = await ask(url, era, bearer(gateway.senior), "--method", "tools/call", "--tool-name", tool, "--tool-args-json", JSON.stringify(args));
    expect(said.result, `a result of ${tool} should have been printed`, said.stdout + said.stderr);
    return said.result;
  };
  const list = async (url, era, token) => {
    const said = await ask(url, era, bearer(token), "--method", "tools/list");
    expect(Array.isArray(said.result?.tools), "a list of tools should have been printed", said.stdout + said.stderr);
    return said.result.tools.map((tool) => tool.name);
  };

  const home = gateway.regions["us-east"];
  for (const [era, [flag, revision]] of Object.entries(eras)) {
    await report.check(`${era}: agrees on ${revision}`, async () => {
      const { result, stdout, stderr } = await ask(home, flag, bearer(gateway.senior), "--method", "initialize");
      expect(result?.protocolVersion === revision && result?.serverInfo?.name === "sallyport", `sallyport at ${revision} should have answered`, stdout + stderr);
    });
    for (const [region, base] of Object.entries(gateway.regions)) {
      for (const [path, suffix] of Object.entries(gateway.paths)) {
        const at = `${era}: ${region} ${path}`;
        const url = base + suffix;
        await report.check(`${at} tools/list`, async () => expectTools(path, await list(url, flag, gateway.senior)));
        await report.check(`${at} allowed tools/call`, async () => expectFile(await call(url, flag, named(path, allowed.tool), allowed.args)));
        await report.check(`${at} refused tools/call`, async () => expectRefusal(await call(url, flag, named(path, refused.tool), refused.args)));
      }
    }
    // GitHub's stand-in speaks the session era, Confluence's the stateless one: the gateway must join either to either.
    await report.check(`${era}: tools/call at an upstream of the stateless era`, async () => {
      const result = await call(home, flag, "confluence__search", { query: "release" });
      expect(result.structuredContent?.pages?.some((page) => page.title === "Release"), "the page should have been found", result);
    });
    await report.check(`${era}: another person sees other tools`, async () => {
      const names = await list(home, flag, gateway.junior);
      expect(names.includes("github__get_file_contents") && !names.includes("github__push_files"), "a junior engineer reads and does not push", names);
    });
    for (const [what, header] of [["no token", ""], ["a false token", bearer("not-a-token")]]) {
      await report.check(`${era}: ${what} is turned away`, async () => {
        const said = await ask(home, flag, header, "--method", "tools/list");
        expect(said.error?.code === "auth_required" && !said.result, "Inspector should have been asked to authorize", said.stdout + said.stderr);
      });
    }
  }
  await report.check("left to choose, it takes the stateless era", async () => {
    const { result, stdout, stderr } = await ask(home, "auto", bearer(gateway.senior), "--method", "initialize");
    expect(result?.protocolVersion === "2026-07-28", "2026-07-28 should have been agreed on", stdout + stderr);
  });
  await checkSignIn(client, gateway, report);
  await report.check("main is as it was after the refused pushes", async () => expectUntouched(await call(home, "legacy", named("/mcp", commits.tool), commits.args)));
}

// checkSignIn gives it a URL and a browser, and no token.
async function checkSignIn(client, gateway, report) {
  const env = { MCP_AUTO_OPEN_ENABLED: "true", MCP_INSPECTOR_SECRET_STORE: "file" };
  const url = `${gateway.regions["eu-west"]}/github`;
  const ask = async (browser, ...args) => {
    const said = await client.run(["--cli", url, "--transport", "http", "--protocol-era", "modern", "--format", "json", "--callback-url", "http://127.0.0.1:0/oauth/callback", ...args], { ...env, ...browser });
    expect(parsed(said.stdout)?.result, "a result should have been printed", said.stdout + said.stderr);
    return { ...said, result: parsed(said.stdout).result };
  };
  await report.check("it registers itself, signs in with a browser, and lists", async () => {
    const said = await ask({}, "--method", "tools/list");
    expect(said.stderr.includes("Authorization complete"), "it should have signed in", said.stderr);
    expectTools("/mcp/github", said.result.tools.map((tool) => tool.name));
  });
  await report.check("it calls with the token that it kept, and opens no browser", async () => {
    const said = await ask({ BROWSER: "/bin/false" }, "--stored-auth-only", "--method", "tools/call", "--tool-name", allowed.tool, "--tool-args-json", JSON.stringify(allowed.args));
    expectFile(said.result);
  });
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
