import { parseSite, type SiteSpec } from "../../../components/site-file/read.ts";
import { SiteFileError } from "../../../components/site-file/problem.ts";

export const hostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdIkdJcdk6jj6IevKXWLCKZTa5f+2kwHmF2eljLWLZZ";

/** A site of one node, with more lines at the end. The node's own lines begin at line 5. */
export const siteText = (more = "", node = ""): string => `site: test
defaults:
  firewall: { management: [192.0.2.0/24] }
nodes:
  - name: pi-1
    address: 192.0.2.1
    hostKey: ${hostKey}
${node}${more}`;

export const parse = (text: string, file = "stacks/test.yaml"): SiteSpec => parseSite(file, text);

/** The faults of a text, one a line as they are printed. */
export function faults(text: string, file?: string): string[] {
  try {
    parse(text, file);
  } catch (error) {
    if (error instanceof SiteFileError) return error.message.split("\n");
    throw error;
  }
  return [];
}
