// What Maya Chen, a senior engineer of the quickstart, must see through any client.

import { expect } from "./run.mjs";

const files = { owner: "acme", repo: "payments" };

// Calls that every client which can call a tool makes. The names are GitHub's own; /mcp puts the connector before them.
export const allowed = { tool: "get_file_contents", args: { ...files, path: "README.md" } };
export const refused = { tool: "push_files", args: { ...files, branch: "main", message: "Change it", files: [{ path: "README.md", content: "changed" }] } };
export const commits = { tool: "list_commits", args: files };

// named is a tool's name at a path.
export const named = (path, tool) => (path === "/mcp" ? `github__${tool}` : tool);

export function expectTools(path, names) {
  const has = (name) => names.includes(name);
  for (const tool of [allowed.tool, refused.tool, commits.tool]) expect(has(named(path, tool)), `${named(path, tool)} should be listed`, names);
  for (const tool of ["merge_pull_request", "delete_branch"]) expect(!has(named(path, tool)), `${named(path, tool)} is denied and should not be listed`, names);
  if (path === "/mcp") {
    for (const tool of ["jira__search_issues", "confluence__search"]) expect(has(tool), `${tool} should be listed`, names);
    expect(!names.some((name) => name.startsWith("salesforce__")), "no tool of Salesforce should be listed for an engineer", names);
  } else {
    expect(!names.some((name) => name.includes("__")), "one connector's tools should have their own names", names);
  }
}

export function expectFile(result) {
  expect(result?.isError !== true && result?.structuredContent?.content === "# Payments\n", "the file's content should have come", result);
}

export function expectRefusal(result) {
  const text = result?.content?.[0]?.text ?? "";
  expect(result?.isError === true && text.startsWith("Sallyport refused this call") && text.includes("no rule allows it"), "Sallyport's refusal should have come", result);
}

// expectUntouched wants main to be as it was, after pushes to it were refused.
export function expectUntouched(result) {
  const messages = (result?.structuredContent?.commits ?? []).map((commit) => commit.message);
  expect(messages.length === 1 && messages[0] === "Begin", "main should have the one commit that it began with", result);
}
