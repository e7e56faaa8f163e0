const notes: Record<string, string> = { one: "The first note.", two: "The second note.", three: "The third note." };

export const dynamicParams = false;

export function generateStaticParams() {
  return Object.keys(notes).map((id) => ({ id }));
}

export default async function Page({ params }: { params: Promise<{ id: string }> }) {
  const { id } = await params;
  return (
    <>
      <h1>Note {id}</h1>
      <p>{notes[id]}</p>
    </>
  );
}
