/** Of files and folders by their mode and owner: those that others than root can change. */
export const changeableByOthers = (files: Readonly<Record<string, string>>): readonly string[] =>
  Object.entries(files).flatMap(([path, marks]) => (rootsAlone(marks) ? [] : [`${path} is ${marks}`]));

/** Mode and owner, and what is no plain file is a folder; the digest, where there is one, is for others to judge. */
const rootsAlone = (marks: string): boolean =>
  /^0[0-7][0145][0145] root:\S+( directory| sha256:[0-9a-f]{64})?$/.test(marks);
