import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { UserError } from "../../../cli/errors.ts";
import { ensureImage } from "../../../testbed/image.ts";
import { NamespaceNode } from "../../../testbed/namespace/node.ts";
import { arm64 } from "../../../testbed/profile.ts";

/* What only root can make, asked for by another user: said at once, with the mend, and nothing is left. */

let cache: string;
beforeEach(() => {
  cache = mkdtempSync(join(tmpdir(), "edgeseal-root-"));
  vi.stubEnv("EDGESEAL_CACHE", cache);
  vi.spyOn(process, "getuid").mockReturnValue(1234);
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
  rmSync(cache, { recursive: true });
});

test.each([
  {
    what: "an image",
    make: () => ensureImage(),
    message: "building the virtual Pi's image needs root",
    hint: "run ./edgeseal pi image, which takes root with sudo",
  },
  {
    what: "an image for arm64",
    make: () => ensureImage({ profile: arm64 }),
    message: "building the virtual Pi's image needs root",
    hint: "run ./edgeseal test arm64, which takes root with sudo",
  },
  {
    what: "a node of namespaces",
    make: () => NamespaceNode.start(),
    message: "a node of namespaces needs root",
    hint: "run ./edgeseal test device, which takes root with sudo",
  },
])("$what", async ({ make, message, hint }) => {
  const refused = await make().catch((error: unknown) => error);
  expect(refused).toBeInstanceOf(UserError);
  expect(refused).toMatchObject({ message, hint });
  expect(readdirSync(cache)).toEqual([]);
});
