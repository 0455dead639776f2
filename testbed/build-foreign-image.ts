import { buildImage } from "./image/build.ts";
import { profiles, type Profile } from "./profile.ts";

/* Builds an image into the given folder, where its programs run: FOLDER ARCHITECTURE. Prints what it is at, a line each. */

const [folder, arch] = process.argv.slice(2) as [string, Profile["arch"]];
await buildImage(folder, { profile: profiles[arch], onProgress: (message) => console.log(message) });
