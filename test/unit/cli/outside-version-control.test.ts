import { execFileSync } from "node:child_process";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { requireOutsideVersionControl } from "../../../cli/keys/outside-version-control.ts";
import { UserError } from "../../../cli/errors.ts";
import { scratchFolder } from "./scratch.ts";

const scratch = scratchFolder();

/** A work tree at `repo`, with a folder `repo/deep`. */
function workTree(): void {
  mkdirSync(scratch("repo", "deep"), { recursive: true });
  execFileSync("git", ["init", "-q", scratch("repo")]);
}

describe("refused is", () => {
  const refusal = async (...parts: readonly string[]): Promise<string> => {
    const error: unknown = await requireOutsideVersionControl(scratch(...parts)).catch(
      (caught: unknown) => caught,
    );
    expect(error).toBeInstanceOf(UserError);
    return (error as UserError).message;
  };

  test("the work tree, a folder in it, and one that would be made in it", async () => {
    workTree();
    for (const path of [
      ["repo"],
      ["repo", "deep"],
      ["repo", "deep", "new", "keys"],
      ["repo", ".git", "keys"],
    ]) {
      expect(await refusal(...path)).toContain(`is in the work tree ${scratch("repo")}`);
    }
  });

  test("a path through a link into it, at any place of the path", async () => {
    workTree();
    symlinkSync(scratch("repo", "deep"), scratch("link"));
    mkdirSync(scratch("outside"));
    symlinkSync("../link", scratch("outside", "again"));
    expect(await refusal("link")).toContain(`(${scratch("link")} leads to ${scratch("repo", "deep")})`);
    expect(await refusal("link", "keys")).toContain("is in the work tree");
    expect(await refusal("outside", "again", "keys")).toContain("is in the work tree");
  });

  test("a path that goes through it and out again", async () => {
    workTree();
    mkdirSync(scratch("outside"));
    symlinkSync(scratch("outside"), scratch("repo", "way-out"));
    expect(await refusal("repo", "way-out", "keys")).toContain("is in the work tree");
  });

  test("a linked work tree and a submodule, whose .git is a file", async () => {
    mkdirSync(scratch("linked"));
    writeFileSync(scratch("linked", ".git"), "gitdir: /somewhere/else\n");
    expect(await refusal("linked", "keys")).toContain("is in the work tree");
  });

  test("a bare repository", async () => {
    execFileSync("git", ["init", "-q", "--bare", scratch("bare")]);
    expect(await refusal("bare", "keys")).toContain("is in the work tree");
  });

  test.each([".jj", ".hg", ".svn"])("what is kept by the owner of %s", async (mark) => {
    mkdirSync(scratch("other", mark), { recursive: true });
    expect(await refusal("other", "keys")).toContain("is in the work tree");
  });

  test("a link to nothing, which whoever makes its target would decide", async () => {
    symlinkSync(scratch("nowhere"), scratch("dangling"));
    expect(await refusal("dangling")).toContain("a symbolic link to something that does not exist");
    expect(await refusal("dangling", "keys")).toContain("a symbolic link to something that does not exist");
  });
});

describe("taken is", () => {
  test("a folder beside a work tree, there or not, by its real path", async () => {
    workTree();
    mkdirSync(scratch("beside"));
    symlinkSync(scratch("beside"), scratch("link"));
    expect(await requireOutsideVersionControl(scratch("beside", "a", "b"))).toBe(scratch("beside", "a", "b"));
    expect(await requireOutsideVersionControl(scratch("link", "keys"))).toBe(scratch("beside", "keys"));
  });
});
