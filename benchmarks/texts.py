"""Sentences for conversations, in languages that tokenizers treat differently, and code."""

# ruff: noqa: RUF001 -- other scripts have letters that look like Latin ones

from __future__ import annotations

__all__ = ["TEXTS"]

TEXTS: dict[str, list[str]] = {
    "English": [
        "The keeper of the lighthouse wrote down the weather twice a day.",
        "Nobody ever asked to see the book, but he kept it for thirty years.",
        "When the storm came in March, the harbour was already closed to ships.",
        "Could you tell me which of these two recipes needs less butter?",
    ],
    "German": [
        "Der Leuchtturmwärter schrieb zweimal am Tag das Wetter auf.",
        "Niemand wollte das Buch je sehen, doch er führte es dreißig Jahre lang.",
        "Die Versicherungsgesellschaft bestätigte den Schadensfall erst nach Wochen.",
        "Welches der beiden Rezepte braucht eigentlich weniger Butter?",
    ],
    "French": [
        "Le gardien du phare notait le temps qu'il faisait deux fois par jour.",
        "Personne n'a jamais demandé à voir le cahier qu'il a tenu trente ans.",
        "Quand la tempête est arrivée en mars, le port était déjà fermé.",
        "Laquelle de ces deux recettes demande le moins de beurre ?",
    ],
    "Spanish": [
        "El guardián del faro anotaba el tiempo dos veces al día.",
        "Nadie pidió nunca ver el cuaderno, pero lo llevó durante treinta años.",
        "Cuando llegó la tormenta en marzo, el puerto ya estaba cerrado.",
        "¿Cuál de estas dos recetas necesita menos mantequilla?",
    ],
    "Polish": [
        "Latarnik zapisywał pogodę dwa razy dziennie.",
        "Nikt nigdy nie poprosił o tę książkę, a prowadził ją przez trzydzieści lat.",
        "Kiedy w marcu przyszedł sztorm, port był już zamknięty dla statków.",
        "Który z tych dwóch przepisów wymaga mniej masła?",
    ],
    "Turkish": [
        "Fener bekçisi günde iki kez hava durumunu yazardı.",
        "Kimse defteri görmek istemedi, ama o otuz yıl boyunca tuttu.",
        "Mart ayında fırtına geldiğinde liman gemilere çoktan kapatılmıştı.",
        "Bu iki tariften hangisi daha az tereyağı istiyor?",
    ],
    "Russian": [
        "Смотритель маяка дважды в день записывал погоду.",
        "Никто никогда не просил показать книгу, но он вёл её тридцать лет.",
        "Когда в марте пришёл шторм, порт был уже закрыт для судов.",
        "Какой из этих двух рецептов требует меньше масла?",
    ],
    "Greek": [
        "Ο φύλακας του φάρου έγραφε τον καιρό δύο φορές την ημέρα.",
        "Κανείς δεν ζήτησε ποτέ να δει το βιβλίο που κρατούσε τριάντα χρόνια.",
        "Ποια από τις δύο συνταγές χρειάζεται λιγότερο βούτυρο;",
    ],
    "Chinese": [
        "灯塔看守人每天记录两次天气。",
        "从来没有人要求看那本书，但他写了三十年。",
        "三月暴风雨来临时，港口已经对船只关闭。",
        "这两个食谱中哪一个需要更少的黄油？",
    ],
    "Japanese": [
        "灯台守は一日に二回天気を書き留めた。",
        "その帳面を見たいと言う人はいなかったが、彼は三十年間つけ続けた。",
        "この二つのレシピのうち、バターが少なくて済むのはどちらですか。",
    ],
    "Arabic": [
        "كان حارس المنارة يدون حالة الطقس مرتين في اليوم.",
        "لم يطلب أحد رؤية الدفتر، لكنه احتفظ به ثلاثين عاما.",
        "أي من هاتين الوصفتين تحتاج إلى زبدة أقل؟",
    ],
    "Python": [
        'def weather(day: int) -> str:\n    """Look it up."""\n    return BOOK[day % 7]["entry"]',
        "for row in csv.DictReader(file):\n    totals[row['port']] += float(row['tons'])",
        "class Keeper:\n    def __init__(self, name: str) -> None:\n        self.name = name",
    ],
    "JSON": [
        '{"day": 17, "wind": {"from": "NW", "knots": 34.5}, "seen": ["Maria", "Gull II"], "ok": true}',
        '[{"id": 90210, "port": "Bergen", "tons": 1180.25}, {"id": 90211, "port": "Turku", "tons": 7.0}]',
    ],
}
