import { mkdirSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { testKey } from "../../trust/keys.ts";

/** The site that the demo's chapters start from. */
export const template = fileURLToPath(new URL("../../../../stacks/demo.yaml", import.meta.url));

/** How a virtual Pi is reached. */
export const ssh = {
  host: "127.0.0.1",
  port: 2222,
  user: "edge",
  identityFile: "/key",
  hostKey: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE5QmexH8bLts3Fe6Qnlo2UpPTL/DWDxG6waAUaP84vh",
};

/**
 * Makes the folders of a chapter, with the public halves of the site's keys.
 * @returns where its site file belongs
 */
export function chapterFolders(path: (name: string) => string): string {
  for (const folder of ["project/stacks", "keys"]) mkdirSync(path(folder), { recursive: true });
  writeFileSync(path("keys/policy-1.pub.pem"), testKey("policy").publicKeyPem);
  writeFileSync(path("keys/recovery.pub.pem"), testKey("recovery").publicKeyPem);
  return path("project/stacks/demo.yaml");
}
