"""The built-in chat prompts: ours, short, varied in subject, form and length of answer.

They are part of the recorded digests: changing one changes what every check measures.
"""

PROMPTS: tuple[str, ...] = (
    "What is the capital of France, and what is it known for?",
    "Explain in simple words why the sky is blue during the day and red at sunset.",
    "Write a short story about a lighthouse keeper who finds a message in a bottle.",
    "Give me a recipe for a vegetable soup with potatoes, carrots and leeks. Start with the ingredients.",
    "How does a refrigerator keep food cold? Describe each step of the cycle.",
    "Write a polite email to my landlord asking for the kitchen tap to be repaired before Friday.",
    "What is the difference between a list and a tuple in Python? Show a small example of each.",
    "A train leaves at 14:20 and arrives at 17:05. How long is the journey? Show how you work it out.",
    "Name five animals that live in the desert and say how each of them saves water.",
    "Translate into French: 'Good morning, I would like two tickets to the museum, please.'",
    "I have trouble sleeping. Which habits could help me to fall asleep more easily?",
    "Write a poem of eight lines about rain falling on a quiet city.",
    "What happened in the year 1969 that many people remember? Mention two events.",
    "Write a Python function that returns the n-th Fibonacci number, and explain how it works.",
    (
        "Summarize in one sentence: The committee met three times in March. It first rejected the budget, then "
        "asked for a smaller one, and finally agreed to a plan that keeps the library open but closes the pool."
    ),
    "Compare living in a big city with living in a small village. Give two advantages of each.",
    "What should I check before I buy a used bicycle?",
    "Explain what inflation is to a twelve-year-old.",
    "Write a dialogue between a cat and a dog who argue about who is the better pet.",
    "How do plants make their own food? Use the words light, water, carbon dioxide and sugar.",
    "Correct the mistakes in this sentence and explain them: 'She don't has no time for goes to the market.'",
    "Plan a weekend in the mountains for a family with two small children.",
    "What is a prime number? List all prime numbers below fifty.",
    (
        "Write an SQL query that finds the ten customers who spent the most money last year. The tables are "
        "customers(id, name) and orders(id, customer_id, amount, day)."
    ),
    "Why do ships made of steel float, although steel is heavier than water?",
    "Write a product description for a wooden desk lamp, in a friendly tone.",
    "Who was Marie Curie, and why is her work still important?",
    "List the planets of the solar system in order from the Sun, with one fact about each.",
    "My computer has become slow. Give me a checklist of things to try, the simplest first.",
    "Describe the taste of a lemon to someone who has never eaten one.",
    "What are the main steps to write a good speech for a wedding?",
    "If I have 3 boxes with 12 apples each and give away 7 apples, how many are left? Explain.",
    "Explain the difference between weather and climate.",
    "Write a short review of an imaginary film about explorers at the South Pole.",
    "What does the command 'git rebase' do, and when would you rather use 'git merge'?",
    (
        "Turn these notes into a paragraph: meeting Tuesday, new logo chosen, blue not green, website in June, "
        "Anna writes the texts, budget still open."
    ),
    "Is it better to exercise in the morning or in the evening? Give reasons for both.",
    "Tell me how bread is made, from the grain in the field to the loaf on the table.",
    "Suggest three names for a small bookshop by the sea and say why each of them fits.",
    "How can a computer find the shortest way between two cities on a map? Name an algorithm and sketch it.",
    "Write a packing list for a week of hiking in autumn, grouped by clothes, food and tools.",
    "Explain how a rainbow forms, and why its colours always come in the same order.",
    "What are the advantages and disadvantages of electric cars?",
    "Write a shell command that counts the lines of all Python files in a folder, and explain each part.",
    "How do I politely refuse an invitation to a party? Give me three ways to say it.",
    "Tell me the story of the tortoise and the hare in your own words.",
    "What does a heart do, and how does blood travel through the body?",
    "A rectangle is 8 metres long and 5 metres wide. What are its area and perimeter? Explain both words.",
    (
        "Summarize this in two sentences: The town library will be closed from Monday to Thursday while "
        "new shelves are "
        "built. Books that are due in that week can be returned until Saturday without a fee. The reading room in the "
        "old school stays open every afternoon, and the children's hour takes place there as well."
    ),
    (
        "Correct the spelling and grammar of this message and keep its tone: hi mark, i has talk to the "
        "landlord and he "
        "say we can painting the kitchen if we pays the colour ourself, do you has time on saterday or is sunday more "
        "better for you? we needs two brush and a ladder too."
    ),
    (
        "Here is a function: def mean(values): return sum(values) / len(values). Somebody called it with an empty list "
        "and the program stopped with an error. Explain what happened, and write a version that returns None for an "
        "empty list, with a short test of both cases."
    ),
    (
        "Extract the date, the place and the three people from this text as a list: On 14 March the committee met in "
        "the harbour office. Mrs. Olsen opened the session, Mr. Tan reported on the repairs of the pier, and Dr. Weber "
        "explained why the lighthouse needs a new lens before the autumn storms."
    ),
    (
        "A recipe for four people needs 300 grams of rice, 2 onions, 1 litre of stock and 120 grams of cheese. I cook "
        "for six people today, and one of them eats no onions. How much of everything do I need? Show how you "
        "calculated it."
    ),
    (
        "I have an interview for a job as a warehouse manager on Friday. I led a team of six for three years, I know "
        "the usual software, but I have never planned night shifts. Write five questions that they may ask me, each "
        "with a sensible answer."
    ),
    (
        "Compare these two offers for a phone contract and tell me which one is cheaper over two years: "
        "the first costs "
        "12 euros a month and 99 euros once, the second costs 17 euros a month, nothing once, and the first three "
        "months are free."
    ),
    (
        "Translate this notice into simple English for people who are learning the language: Due to unforeseen "
        "circumstances, the commencement of the guided tour has been postponed by approximately forty "
        "minutes. Visitors "
        "are kindly requested to assemble at the main entrance in good time."
    ),
    (
        "Read this table of rainfall in millimetres and describe what it says: January 60, February 48, "
        "March 51, April "
        "35, May 22, June 9, July 2, August 4, September 18, October 44, November 63, December 71. When would you "
        "advise a farmer to plant?"
    ),
    (
        "Continue this story with one more paragraph: The old clock in the station had stopped at ten past four, and "
        "nobody remembered when. One evening, as the last train left and the lamps went out one after another, the "
        "keeper heard it tick."
    ),
)
